"""Which replica of a model to ask: the one that is expected to answer first.

    answer took … → its replica's latency, a mean that forgets
    choose → min over replicas of latency × (requests under way there + 1)

A slow replica is asked rarely, not never: what is known of it fades, so that it comes back when it
has recovered. (Finagle's peak EWMA: a rise counts at once, a fall only gradually.)
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass

FORGET_S = 10.0
"""After so many seconds 1/e of what was known of a latency is left."""

UNKNOWN_S = 1e-6
"""The least latency, to which what is known of one fades."""

FAILED_S = 1.0
"""The latency of a replica that has just failed: to fail fast is not to be fast."""


@dataclass(eq=False)
class Replica:
    """One replica of a model, as one router sees it."""

    address: str
    """``IP:PORT``."""

    near: bool = False
    """Whether it can read this router's memory, as far as is known."""

    ongoing: int = 0
    _latency_s: float = UNKNOWN_S
    _at: float = 0.0
    _known: bool = False

    def latency_s(self, now: float) -> float:
        """What an answer takes, as far as is still known."""
        return max(UNKNOWN_S, self._latency_s * math.exp(-(now - self._at) / FORGET_S))

    def took(self, seconds: float, now: float) -> None:
        """It has answered, after so long."""
        known = self.latency_s(now)
        faded = math.exp(-(now - self._at) / FORGET_S)
        # A rise counts at once; a fall by as much as there was time to forget, at least a tenth.
        kept = min(faded, 0.9) if seconds < known else 0.0
        self._latency_s = kept * known + (1 - kept) * seconds
        self._at = now
        self._known = True

    def waited(self, seconds: float, now: float) -> None:
        """It was given up after so long: it would have taken longer still."""
        if seconds > self.latency_s(now):
            self.took(seconds, now)

    def failed(self, now: float) -> None:
        """It has broken off, or answered with an error of its own."""
        self.waited(FAILED_S, now)

    def expected_s(self, now: float) -> float:
        """When it would have answered one request more.

        One of which nothing is known is tried at once, with one request until it has answered.
        """
        if not self._known:
            return math.inf if self.ongoing else 0.0
        return self.latency_s(now) * (self.ongoing + 1)


def choose(replicas: Iterable[Replica], now: float, but: Collection[str] = ()) -> Replica | None:
    """The replica to ask; None if there is none beside those at the addresses ``but``.

    Of replicas that are expected to answer alike, the one with the fewest requests under way.
    """
    possible = [replica for replica in replicas if replica.address not in but]
    return min(possible, key=lambda each: (each.expected_s(now), each.ongoing), default=None)

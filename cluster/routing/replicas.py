"""Choice of a replica: the one with the shortest expected response time.

    latency of an answer → moving average of its replica
    choose → min over replicas of latency × (in-flight requests + 1)

A slow replica still gets a few requests: its average decays, so that it recovers. (Finagle's peak
EWMA: a rise counts at once, a fall only gradually.)
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass

FORGET_S = 10.0
"""Time constant of the decay, in seconds."""

UNKNOWN_S = 1e-6
"""Latency to which an average decays, in seconds."""

FAILED_S = 1.0
"""Latency of a replica that has just failed, so that failing fast does not look fast."""


@dataclass(eq=False)
class Replica:
    """Replica of a model, as one router sees it."""

    address: str
    """``IP:PORT``."""

    near: bool = False
    """Whether it is known to run on this router's node, and can read its memory."""

    ongoing: int = 0
    _latency_s: float = UNKNOWN_S
    _at: float = 0.0
    _known: bool = False

    def latency_s(self, now: float) -> float:
        """Return the decayed average latency, in seconds."""
        return max(UNKNOWN_S, self._latency_s * math.exp(-(now - self._at) / FORGET_S))

    def took(self, seconds: float, now: float) -> None:
        """Record an answer after so many seconds."""
        known = self.latency_s(now)
        decay = math.exp(-(now - self._at) / FORGET_S)
        # A rise counts at once; a fall by the decay since the last answer, at least by a tenth.
        weight = min(decay, 0.9) if seconds < known else 0.0
        self._latency_s = weight * known + (1 - weight) * seconds
        self._at = now
        self._known = True

    def waited(self, seconds: float, now: float) -> None:
        """Record a request that was cancelled after so many seconds: a lower bound."""
        if seconds > self.latency_s(now):
            self.took(seconds, now)

    def failed(self, now: float) -> None:
        """Record a broken connection or a server error."""
        self.waited(FAILED_S, now)

    def expected_s(self, now: float) -> float:
        """Return the expected response time of one more request, in seconds.

        A new replica is tried at once, with a single request until its first answer.
        """
        if not self._known:
            return math.inf if self.ongoing else 0.0
        return self.latency_s(now) * (self.ongoing + 1)


def choose(replicas: Iterable[Replica], now: float, but: Collection[str] = ()) -> Replica | None:
    """Return the replica to call; None if all are at the addresses ``but``.

    Ties go to the replica with the fewest in-flight requests.
    """
    candidates = [replica for replica in replicas if replica.address not in but]
    return min(candidates, key=lambda r: (r.expected_s(now), r.ongoing), default=None)

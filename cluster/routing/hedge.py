"""Hedged requests: when to send a second request, and how many are allowed.

The tail at scale (Dean and Barroso 2013): if the answer is later than the 95th percentile, send
the request to a second replica. The share of second requests is bounded, so that a model that
slows down as a whole does not get twice the load as well.
"""

from __future__ import annotations

import math
from collections import deque

LATENCIES = 100
"""Window of the percentile, in answers."""

MIN_LATENCIES = 20
"""Answers before there is a percentile, and thus a second request by time."""

MAX_SAVED = 5.0
"""Largest number of unused second requests that are saved up."""


class Latencies:
    """Latencies of the last answers."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=LATENCIES)

    def add(self, seconds: float) -> None:
        """Record the latency of one answer."""
        self._seconds.append(seconds)

    def percentile_s(self, share: float) -> float:
        """Return the percentile at ``share`` (nearest rank), in seconds.

        Infinite before there are :data:`MIN_LATENCIES` answers.
        """
        if len(self._seconds) < MIN_LATENCIES:
            return math.inf
        rank = max(1, math.ceil(share * len(self._seconds)))
        return sorted(self._seconds)[rank - 1]


class HedgeBudget:
    """Budget of second requests: at most ``share`` · n over n requests.

    Every request earns ``share``; a second request costs 1.
    """

    def __init__(self, share: float) -> None:
        self._share = share
        self._saved = 0.0

    def earn(self) -> None:
        """Record a request."""
        self._saved = min(MAX_SAVED, self._saved + self._share)

    @property
    def allows(self) -> bool:
        """Whether a second request is within the budget."""
        # Twenty times 0.05 is 1 less the last bit of a float.
        return self._saved >= 1 - 1e-9

    def spend(self) -> None:
        """Pay for a second request; ValueError if the budget does not allow it."""
        if not self.allows:
            raise ValueError(f"{self._saved:.2f} second requests are saved, expected 1 or more")
        self._saved = max(0.0, self._saved - 1)

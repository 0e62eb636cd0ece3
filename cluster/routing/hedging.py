"""When a second replica is asked, and how often that may be.

The tail at scale (Dean and Barroso 2013): wait until an answer is later than the 95th percentile,
then ask once more. The share of second requests is bounded whatever happens, so a model that gets
slower as a whole is not asked twice as much as well.
"""

from __future__ import annotations

import math
from collections import deque

LATENCIES = 100
"""How many of the last answers the percentile is taken of."""

MIN_LATENCIES = 20
"""Before so many answers there is no percentile, and no second request by time."""

MAX_SAVED = 5.0
"""Second requests that may be saved up while none were needed."""


class Latencies:
    """How long the last answers took."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=LATENCIES)

    def add(self, seconds: float) -> None:
        """One answer more."""
        self._seconds.append(seconds)

    def percentile_s(self, share: float) -> float:
        """The smallest time within which at least ``share`` of the answers came (nearest rank);
        infinite before there are :data:`MIN_LATENCIES`."""
        if len(self._seconds) < MIN_LATENCIES:
            return math.inf
        rank = max(1, math.ceil(share * len(self._seconds)))
        return sorted(self._seconds)[rank - 1]


class HedgeBudget:
    """At most ``share`` second requests per request.

    Every request earns ``share``; a second request costs 1. Over n requests at most
    ``share`` · n second ones are made.
    """

    def __init__(self, share: float) -> None:
        self._share = share
        self._saved = 0.0

    def earn(self) -> None:
        """A request came."""
        self._saved = min(MAX_SAVED, self._saved + self._share)

    @property
    def allows(self) -> bool:
        """Whether a second request may be made now."""
        # What was earned in twenty steps of 0.05 is 1 less the last bit of a float.
        return self._saved >= 1 - 1e-9

    def spend(self) -> None:
        """A second request is made; ValueError if it may not be."""
        if not self.allows:
            raise ValueError(f"{self._saved:.2f} second requests are left, expected 1 or more")
        self._saved = max(0.0, self._saved - 1)

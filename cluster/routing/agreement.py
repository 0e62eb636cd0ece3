"""Two versions of a model on the same requests: how often they agree, how far their scores drift.

Sums alone are kept, so that figures over any time take as much memory as over a second.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np

_LATENCIES = 500
"""Of how many of the last requests the median latencies are taken."""


@dataclass(frozen=True)
class Compared:
    """One request that both versions answered."""

    items: int
    agreeing: int
    drift: float
    """Sum over its items of the total variation distance of the two distributions, 0..1 each:
    half the sum over classes of |p - q|."""

    @staticmethod
    def of(live: np.ndarray, shadow: np.ndarray) -> Compared:
        """``live``, ``shadow``: probabilities ``[items, classes]``."""
        return Compared(
            items=live.shape[0],
            agreeing=int((live.argmax(axis=1) == shadow.argmax(axis=1)).sum()),
            drift=float(np.abs(live - shadow).sum() / 2),
        )


@dataclass
class Agreement:
    """All requests so far."""

    requests: int = 0
    items: int = 0
    agreeing: int = 0
    drift: float = 0.0
    failures: int = 0
    """Requests that the other version did not answer."""

    skipped: int = 0
    """Requests it was not asked, because too many were waiting for it already."""

    _live_s: deque[float] = field(default_factory=lambda: deque(maxlen=_LATENCIES))
    _shadow_s: deque[float] = field(default_factory=lambda: deque(maxlen=_LATENCIES))

    def add(self, compared: Compared, live_s: float, shadow_s: float) -> None:
        """Both have answered, in so many seconds."""
        self.requests += 1
        self.items += compared.items
        self.agreeing += compared.agreeing
        self.drift += compared.drift
        self._live_s.append(live_s)
        self._shadow_s.append(shadow_s)

    def summary(self) -> dict[str, Any]:
        """As plain data; null where nothing was compared yet."""
        some = self.items > 0
        return {
            "requests": self.requests,
            "items": self.items,
            "agreement": self.agreeing / self.items if some else None,
            "mean_drift": self.drift / self.items if some else None,
            "failures": self.failures,
            "skipped": self.skipped,
            "live_p50_ms": median(self._live_s) * 1e3 if self._live_s else None,
            "shadow_p50_ms": median(self._shadow_s) * 1e3 if self._shadow_s else None,
        }

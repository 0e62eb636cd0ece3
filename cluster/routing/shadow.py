"""Comparison of two versions of a model on the same requests: agreement and drift of scores.

It stores only sums, so memory does not grow with the number of requests.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np

from cluster.activation import OutputActivation, decisions

_LATENCIES = 500
"""Window of the median latencies, in requests."""


@dataclass(frozen=True)
class Comparison:
    """Comparison of one request that both versions answered."""

    items: int
    agreeing: int
    drift: float
    """Sum over the items of the total variation distance of the two answers, 0..1 each.

    Of one distribution: half the sum over the classes of |p - q|. Of independent labels: the mean
    of |p - q|."""

    @staticmethod
    def of(live: np.ndarray, shadow: np.ndarray, activation: OutputActivation) -> Comparison:
        """Compare two answers: probabilities ``[items, labels]`` each.

        Items agree if both answers choose the same labels.
        """
        ours, theirs = (decisions(answer, activation, 0.5) for answer in (live, shadow))
        parts = 2 if activation == "softmax" else live.shape[1]
        return Comparison(
            items=live.shape[0],
            agreeing=int((ours == theirs).all(axis=1).sum()),
            drift=float(np.abs(live - shadow).sum() / parts),
        )


@dataclass
class ShadowTotals:
    """Totals of all requests."""

    requests: int = 0
    items: int = 0
    agreeing: int = 0
    drift: float = 0.0
    failures: int = 0
    """Requests that the shadow did not answer."""

    skipped: int = 0
    """Requests not sent to the shadow, because its queue was full."""

    _live_s: deque[float] = field(default_factory=lambda: deque(maxlen=_LATENCIES))
    _shadow_s: deque[float] = field(default_factory=lambda: deque(maxlen=_LATENCIES))

    def add(self, comparison: Comparison, live_s: float, shadow_s: float) -> None:
        """Record a request that both versions answered, and their latencies in seconds."""
        self.requests += 1
        self.items += comparison.items
        self.agreeing += comparison.agreeing
        self.drift += comparison.drift
        self._live_s.append(live_s)
        self._shadow_s.append(shadow_s)

    def summary(self) -> dict[str, Any]:
        """Return the figures as plain data; null before the first comparison."""
        return {
            "requests": self.requests,
            "items": self.items,
            "agreement": self.agreeing / self.items if self.items else None,
            "mean_drift": self.drift / self.items if self.items else None,
            "failures": self.failures,
            "skipped": self.skipped,
            "live_p50_ms": median(self._live_s) * 1e3 if self._live_s else None,
            "shadow_p50_ms": median(self._shadow_s) * 1e3 if self._shadow_s else None,
        }

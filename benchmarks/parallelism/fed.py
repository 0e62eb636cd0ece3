"""Figures of a model that is fed in-process, by the process that serves its requests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmarks.harness.results import Figures

SERVED_BATCH = 2
"""Largest micro-batch over HTTP, and that of every peer.

16 requests in flight then fill the 3 micro-batches of a pipeline of 2 stages, and the next
requests wait behind them."""

BATCHES = (1, SERVED_BATCH, 4)
"""Micro-batches that are fed in-process."""

CONCURRENCIES = (1, 16)
"""Requests in flight over HTTP."""

WHOLE, CUT = "whole", "cut"
"""Headrace's replica with the whole program, and with its shards."""

LATENCY = "one item, ms"
"""Figure: median latency of one item, with nothing else in flight."""

IMBALANCE = "slowest stage over the mean, %"
"""Figure: how much longer than the mean stage the slowest one takes."""


def items_per_s(items: int) -> str:
    """Return the name of the throughput with micro-batches of ``items``."""
    return f"items/s, micro-batches of {items}"


@dataclass(frozen=True)
class FeedResult:
    """One feeding."""

    latency_ms: float
    """Latency of one item."""

    items_per_s: dict[int, float]
    """Throughput by items of a micro-batch, with as many in flight as the pipeline takes."""

    stage_ms: tuple[float, ...] = ()
    """Mean computing time of a micro-batch in each stage, over all micro-batches."""

    @staticmethod
    def read(raw: dict[str, Any]) -> FeedResult:
        """Return the feeding of its plain data, as JSON stores it."""
        rates = {int(items): rate for items, rate in raw["items_per_s"].items()}
        return FeedResult(raw["latency_ms"], rates, tuple(raw["stage_ms"]))

    def figures(self) -> Figures:
        """Return the feeding as figures of the results."""
        figures: Figures = {LATENCY: self.latency_ms}
        figures |= {items_per_s(items): rate for items, rate in self.items_per_s.items()}
        figures |= {f"stage {stage}, ms": ms for stage, ms in enumerate(self.stage_ms)}
        if self.stage_ms:
            mean = sum(self.stage_ms) / len(self.stage_ms)
            figures[IMBALANCE] = (max(self.stage_ms) / mean - 1) * 100
        return figures

"""Goals of the parallelism benchmark: the cut replica beside the whole one and its plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.harness.goals import Goal, at_least, at_most
from benchmarks.harness.results import Figures, Medians
from benchmarks.parallelism.fed import (
    BATCHES,
    CONCURRENCIES,
    CUT,
    IMBALANCE,
    LATENCY,
    SERVED_BATCH,
    WHOLE,
    items_per_s,
)

SPEED_UP, TENSOR_LATENCY, IMBALANCE_PERCENT, OFF_PERCENT = 1.75, 0.70, 10, 15


def goals(pipeline: int, predicted: Mapping[str, float], medians: Medians) -> Sequence[Goal]:
    """Return the goals of a cut into ``pipeline`` stages, or of tensor ranks if that is 1.

    ``predicted``: ``latency_ms`` and ``items_per_s`` of the plan.
    """
    whole, cut = medians[WHOLE], medians[CUT]
    throughput = cut[items_per_s(SERVED_BATCH)]
    return (
        *(_pipeline(whole, cut) if pipeline > 1 else _tensor(whole, cut)),
        _predicted("latency", predicted["latency_ms"], cut[LATENCY]),
        _predicted("throughput", predicted["items_per_s"], throughput),
    )


def _pipeline(whole: Figures, cut: Figures) -> tuple[Goal, ...]:
    best_cut, best_whole = (max(f[items_per_s(n)] for n in BATCHES) for f in (cut, whole))
    many = CONCURRENCIES[-1]
    served = cut[f"req/s at c={many}"] / whole[f"req/s at c={many}"]
    return (
        at_least("throughput, fed in-process, to one replica", best_cut / best_whole, SPEED_UP),
        at_least(f"throughput over HTTP, c={many}, to one replica", served, SPEED_UP),
        at_most("slowest stage over the mean", cut[IMBALANCE], IMBALANCE_PERCENT, " %"),
    )


def _tensor(whole: Figures, cut: Figures) -> tuple[Goal, ...]:
    share = cut[LATENCY] / whole[LATENCY]
    return (at_most("latency of one item, to one replica", share, TENSOR_LATENCY),)


def _predicted(name: str, predicted: float, measured: float) -> Goal:
    off = abs(predicted / measured - 1) * 100
    return at_most(f"predicted {name}, off by", off, OFF_PERCENT, " %")

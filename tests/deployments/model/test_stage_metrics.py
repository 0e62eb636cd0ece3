"""Counters of shards as Prometheus counters, which only grow."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.runtime.shard import ShardCounters
from deployments.model import metrics

LAYOUT = SimpleNamespace(shards=[SimpleNamespace(stage=stage, tp_rank=0) for stage in (0, 1)])


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[str, ...]]:
    """Return the values of the counters by (stage, activity)."""
    values: Counter[tuple[str, ...]] = Counter()

    class StubCounter:
        def __init__(self, *_: Any) -> None:
            pass

        def inc(self, value: float, tags: dict[str, str]) -> None:
            assert value > 0
            values[tags["stage"], tags.get("doing", "micro_batches")] += value

    monkeypatch.setattr(metrics.metrics, "Counter", StubCounter)
    return values


def counters(micro_batches: int) -> ShardCounters:
    return ShardCounters(micro_batches=micro_batches, compute_s=micro_batches / 4)


def test_report_adds_difference_to_counters(counted: Counter[tuple[str, ...]]) -> None:
    report = metrics.StageMetrics("cut", LAYOUT).report
    for first, second in ((4, 2), (4, 6), (8, 6)):
        report([counters(first), counters(second)])
    assert counted == {
        ("0", "micro_batches"): 8,
        ("0", "compute"): 2,
        ("1", "micro_batches"): 6,
        ("1", "compute"): 1.5,
    }

"""Triton's statistics: sums by hand, and what perf_analyzer reads of them."""

from __future__ import annotations

import time
from typing import Any

import pytest

from cluster.protocol.statistics import Statistics


def described(statistics: Statistics) -> dict[str, Any]:
    (entry,) = statistics.describe("digits", "1")["model_stats"]
    return dict(entry)


def test_two_requests_in_one_batch_are_summed() -> None:
    statistics = Statistics()
    statistics.answered(3, queue_s=0.001, input_s=0.002, infer_s=0.010, output_s=0.0005)
    statistics.answered(1, queue_s=0.003, input_s=0.001, infer_s=0.010, output_s=0.0005)
    statistics.executed(4, 0.010)
    entry = described(statistics)
    assert (entry["name"], entry["version"]) == ("digits", "1")
    assert (entry["inference_count"], entry["execution_count"]) == (4, 1)
    assert entry["inference_stats"] == {
        "success": {"count": 2, "ns": 28_000_000},
        "fail": {"count": 0, "ns": 0},
        "queue": {"count": 2, "ns": 4_000_000},
        "compute_input": {"count": 2, "ns": 3_000_000},
        "compute_infer": {"count": 2, "ns": 20_000_000},
        "compute_output": {"count": 2, "ns": 1_000_000},
        "cache_hit": {"count": 0, "ns": 0},
        "cache_miss": {"count": 0, "ns": 0},
    }
    (batch,) = entry["batch_stats"]
    assert batch["batch_size"] == 4
    assert batch["compute_infer"] == {"count": 1, "ns": 10_000_000}


def test_cached_answers_are_no_inferences() -> None:
    statistics = Statistics()
    statistics.missed(0.001)
    statistics.cached(0.002)
    entry = described(statistics)
    assert (entry["inference_count"], entry["execution_count"]) == (0, 0)
    assert entry["inference_stats"]["success"] == {"count": 1, "ns": 2_000_000}
    assert entry["inference_stats"]["cache_hit"] == {"count": 1, "ns": 2_000_000}
    assert entry["inference_stats"]["cache_miss"] == {"count": 1, "ns": 1_000_000}


def test_last_inference_is_in_milliseconds() -> None:
    statistics = Statistics()
    before_ms = time.time() * 1e3
    assert abs(described(statistics)["since"] - before_ms) < 5000
    assert described(statistics)["last_inference"] == 0
    statistics.failed(0.1)
    assert abs(described(statistics)["last_inference"] - before_ms) < 5000
    assert described(statistics)["inference_stats"]["fail"] == {"count": 1, "ns": 100_000_000}


def test_replicas_are_told_apart() -> None:
    assert described(Statistics())["replica"] != described(Statistics())["replica"]


@pytest.mark.parametrize("part", ["success", "queue", "cache_hit", "cache_miss"])
def test_perf_analyzer_finds_every_field(part: str) -> None:
    """It ends itself without one of them, or with a version that is no number.

    ``TritonClientBackend::ParseStatistics`` and ``InferenceProfiler::SummarizeServerStatsHelper``.
    """
    entry = described(Statistics())
    assert str(int(entry["version"])) == entry["version"]
    for count in (entry["inference_count"], entry["execution_count"]):
        assert type(count) is int
    parts = ("compute_input", "compute_infer", "compute_output", part)
    for duration in (entry["inference_stats"][name] for name in parts):
        assert {type(value) for value in duration.values()} == {int}
        assert set(duration) == {"count", "ns"}

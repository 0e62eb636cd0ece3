"""Measurements: outputs of every sample once, and latencies of alternating runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cluster.compression.evaluation.measure import latencies, outputs_of

Bench = Callable[..., Any]


@pytest.mark.parametrize("count", [None, 50, 10**6])
def test_outputs_have_order_of_samples(bench: Bench, count: int | None) -> None:
    samples = bench().test
    total = min(count or len(samples), len(samples))
    images, labels = samples.batch(range(total))
    sizes: list[int] = []

    def embed(arrays: list[np.ndarray]) -> np.ndarray:
        sizes.append(len(arrays[0]))
        return arrays[0].reshape(len(arrays[0]), -1)[:, :100].astype(np.float64)

    outputs, result = outputs_of(embed, samples, count)
    assert outputs.dtype == np.float32
    np.testing.assert_array_equal(outputs, images[0].reshape(total, -1)[:, :100])
    np.testing.assert_array_equal(result, labels)
    assert max(sizes) <= 32


def test_outputs_require_at_least_one_sample(bench: Bench) -> None:
    with pytest.raises(ValueError, match="at least one sample"):
        outputs_of(lambda arrays: arrays[0], bench().test, 0)


def test_models_are_timed_alternately_at_each_batch_size(bench: Bench) -> None:
    calls: list[tuple[str, int]] = []
    runs = {name: lambda arrays, name=name: calls.append((name, len(arrays[0]))) for name in "ab"}
    result = latencies(runs, bench().test, (1, 8), 5, lambda line: None)
    assert calls == [(name, batch) for batch in (1, 8) for _ in range(7) for name in "ab"]
    assert [entry.batch for entry in result["a"]] == [1, 8]
    assert all(0 < entry.p50_ms <= entry.p99_ms for entry in result["a"])

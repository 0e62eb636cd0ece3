"""Accuracy comes with its uncertainty, latency from runs taken in turn, and the gate is strict."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cluster.artifact.manifest import Latency, Measurement
from cluster.compression.evaluate import Evaluated
from cluster.compression.gate import check
from cluster.compression.measure import accuracy, latencies, wilson
from cluster.compression.report import gate_lines, report, row, table
from cluster.config.recipe import Gate, Recipe

Bench = Callable[..., Any]


@pytest.mark.parametrize(
    ("right", "total", "low", "high"),
    [
        # The bounds b solve |share - b| = z·sqrt(b(1 - b)/n): checked by putting them in.
        (81, 263, 0.2553, 0.3662),
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (1, 2, 0.0945, 0.9055),
    ],
)
def test_the_interval_is_wilsons(right: int, total: int, low: float, high: float) -> None:
    found = wilson(right, total)
    assert found.share == right / total
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))
    for bound in (found.low, found.high):
        if min(bound, 1 - bound) < 1e-9:
            continue  # cut off at 0 and 1
        deviation = (bound * (1 - bound) / total) ** 0.5
        assert abs(found.share - bound) == pytest.approx(1.959964 * deviation, rel=1e-5)


def test_accuracy_counts_the_right_answers(bench: Bench) -> None:
    made = bench()
    _, labels = made.test.batch(range(len(made.test)))
    served = iter(np.split(labels, range(32, len(labels), 32)))

    def wrong_on_zeros(arrays: list[np.ndarray]) -> np.ndarray:
        wanted = next(served)
        assert len(wanted) == len(arrays[0]) <= 32
        return np.eye(10)[np.where(wanted == 0, 1, wanted)]

    found = accuracy(wrong_on_zeros, made.test, None)
    assert found.samples == len(labels)
    assert found.share == pytest.approx(1 - (labels == 0).mean())
    zeros = accuracy(lambda arrays: np.eye(10)[[0] * len(arrays[0])], made.test, 50)
    assert zeros.samples == 50
    assert zeros.share == pytest.approx((labels[:50] == 0).mean())


def test_models_are_timed_in_turn_at_every_batch_size(bench: Bench) -> None:
    calls: list[tuple[str, int]] = []
    runs = {name: lambda arrays, name=name: calls.append((name, len(arrays[0]))) for name in "ab"}
    found = latencies(runs, bench().test, (1, 8), 5, lambda line: None)
    assert calls == [(name, batch) for batch in (1, 8) for _ in range(7) for name in "ab"]
    assert [entry.batch for entry in found["a"]] == [1, 8]
    assert all(0 < entry.p50_ms <= entry.p99_ms for entry in found["a"])


def measured(right: float, ms: float, size: int) -> Measurement:
    return Measurement(
        accuracy=right,
        accuracy_low=right - 0.1,
        accuracy_high=right + 0.1,
        samples=100,
        latency=(
            Latency(batch=1, p50_ms=ms, p99_ms=2 * ms),
            Latency(batch=8, p50_ms=4 * ms, p99_ms=9 * ms),
        ),
        size_bytes=size,
    )


FOUND = Evaluated(
    target="cpu-x86", baseline=measured(0.9, 8.0, 4000), artifact=measured(0.88, 2.0, 1000)
)


@pytest.mark.parametrize(
    ("gate", "passed"),
    [
        ({}, True),  # by default: 2 points of accuracy at most, and not slower
        ({"max_accuracy_drop": 0.02}, True),  # 0.9 - 0.88 is a hair over 0.02
        ({"max_accuracy_drop": 0.019}, False),
        ({"min_speedup": 4}, True),
        ({"min_speedup": 4.1}, False),
        ({"max_bytes": 1000}, True),
        ({"max_bytes": 999}, False),
        ({"max_accuracy_drop": None, "min_speedup": None}, True),
    ],
)
def test_the_gate_holds_each_limit(gate: dict[str, Any], passed: bool) -> None:
    checks = check(Gate.model_validate(gate), FOUND)
    assert all(each.passed for each in checks) == passed
    set_limits = {k for k, v in Gate.model_validate(gate).model_dump().items() if v is not None}
    assert {each.name for each in checks} == set_limits
    for name in gate.keys() & set_limits:
        text = next(line for line in gate_lines(checks) if name in line)
        assert text.endswith("passed" if passed else "FAILED")


def test_the_report_holds_both_models_figures(tiny_recipe: Callable[..., Recipe]) -> None:
    recipe = tiny_recipe("digits", "bf16")
    checks = check(Gate(max_bytes=1), FOUND)
    content = json.loads(report(recipe, FOUND, checks, 7, {"train": 1.234}))
    assert content["accepted"] is False
    assert content["quantized_operators"] == 7
    assert [each["name"] for each in content["gate"] if not each["passed"]] == ["max_bytes"]
    for name, ms, size in (("baseline", 8.0, 4000), ("artifact", 2.0, 1000)):
        found = content[name]
        assert found["size_bytes"] == size
        assert found["accuracy_low"] < found["accuracy"] < found["accuracy_high"]
        assert found["latency"][0] == {
            "batch": 1, "p50_ms": ms, "p99_ms": 2 * ms, "items_per_s": 1000 / ms,
        }  # fmt: skip
        assert found["latency"][1]["items_per_s"] == 8000 / (4 * ms)
    assert Recipe.model_validate(content["recipe"]) == recipe


def test_the_table_shows_them_side_by_side() -> None:
    lines = table([row(n, m, FOUND.baseline) for n, m in FOUND if n != "target"]).splitlines()
    assert lines[2].split()[-2:] == ["0.0", "1.00×"]
    assert lines[3].split()[-2:] == ["0.0", "4.00×"]
    assert "0.8800 (0.780–0.980)" in lines[3]
    assert "2.00 / 4.00 ms   8.00 / 18.00 ms   1000" in lines[3]

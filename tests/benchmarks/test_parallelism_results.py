"""Goals of the parallel benchmark: medians and ratios of the rounds, and rates of what ended."""

from __future__ import annotations

import itertools
import json
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from benchmarks.errors import BenchmarkError
from benchmarks.parallelism import pace
from benchmarks.parallelism.__main__ import _begun
from benchmarks.parallelism.cases import CASES
from benchmarks.parallelism.results import CUT, WHOLE, CaseResult, Fed, Predicted, Round, Run
from benchmarks.parallelism.table import markdown, missed
from benchmarks.results import Load

MACHINE = {"cpu": "A CPU", "cores": 2, "date": "2026-01-02T03:04:05+00:00", "versions": {}}
SETTINGS = {"rounds": 3, "seconds": 10, "quick": False}


def fed(latency_ms: float, rate: float, stage_ms: tuple[float, ...] = ()) -> Fed:
    return Fed(latency_ms, {1: rate, 2: 1.1 * rate, 4: rate}, stage_ms)


def loads(rate: float) -> dict[int, Load]:
    return {n: Load(100, rate, 1.0, 2.0, 3.0, 0, 0) for n in (1, 16)}


def case(pipeline: int, tensor: int, speed_up: float, stages: tuple[float, float]) -> CaseResult:
    rounds = []
    for number in range(1, 4):
        # The last round is an outlier, which a mean would show and a median does not.
        slow = 10.0 if number == 3 else 1.0
        rounds.append(Round(WHOLE, number, fed(100 * slow, 10 / slow), loads(10 / slow)))
        rate = 10 * speed_up / slow
        rounds.append(Round(CUT, number, fed(60 * slow, rate, stages), loads(rate)))
    rounds.append(Round("torch-pipelining", 1, Fed(200.0, {2: 5.0}), {}))
    return CaseResult(
        key="case",
        title="A case",
        artifact="0" * 64,
        layout="cpu-x86/aoti/pp2.tp1",
        pipeline=pipeline,
        tensor=tensor,
        after=("relu",),
        predicted=Predicted(66.0, 1.1 * 10 * speed_up, (30.0, 30.0)),
        rounds=tuple(rounds),
    )


def goals(result: CaseResult) -> dict[str, tuple[float, bool]]:
    return {goal.claim: (pytest.approx(goal.measured), goal.met) for goal in result.goals}


def test_a_pipeline_is_held_to_its_speed_up_its_balance_and_its_plan() -> None:
    assert goals(case(2, 1, speed_up=1.8, stages=(21.0, 19.0))) == {
        "throughput, fed in-process, to one replica": (1.8, True),
        "throughput over HTTP, c=16, to one replica": (1.8, True),
        "slowest stage over the mean": (5.0, True),
        "predicted latency, off by": (10.0, True),
        "predicted throughput, off by": (pytest.approx(0.0, abs=1e-6), True),
    }


def test_what_is_missed_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(MACHINE, SETTINGS, (case(2, 1, speed_up=1.5, stages=(25.0, 15.0)),))
    assert missed(run) == [
        "case: throughput, fed in-process, to one replica is 1.50×",
        "case: throughput over HTTP, c=16, to one replica is 1.50×",
        "case: slowest stage over the mean is 25.0 %",
    ]
    assert "| slowest stage over the mean | 25.0 % | ≤ 10.0 % | **missed** |" in markdown(run)


def test_tensor_ranks_are_held_to_their_latency() -> None:
    found = goals(case(1, 2, speed_up=1.6, stages=(50.0, 50.0)))
    assert found["latency of one item, to one replica"] == (0.6, True)
    assert len(found) == 3


def test_peers_are_compared_at_the_micro_batch_that_they_have() -> None:
    text = markdown(Run(MACHINE, SETTINGS, (case(2, 1, 1.8, (20.0, 20.0)),)))
    row = next(line for line in text.splitlines() if line.startswith("| torch.distributed"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[1:7] == ["200.00", "3.33×", "", "5.00", "", "0.25×"]
    assert cells[7:] == ["", "", "", ""]


def test_a_quick_run_has_no_goals_to_meet() -> None:
    run = Run(MACHINE, SETTINGS | {"quick": True}, (case(2, 1, 1.0, (1.0, 9.0)),))
    assert missed(run) == []
    assert "missed" not in markdown(run)


def test_every_recipe_is_valid_and_of_one_kind() -> None:
    for each in itertools.chain(CASES.values(), (one.quick() for one in CASES.values())):
        recipe = each.recipe()
        (cut,), (programs,) = recipe.parallel, recipe.programs
        assert (cut.pipeline, cut.tensor) == (each.pipeline, each.tensor)
        assert programs.kinds == (cut.kind,)
    names = [one.recipe().name for one in CASES.values()]
    assert len(set(names)) == len(names)


def test_a_rate_leaves_out_the_start_and_the_end() -> None:
    # Two under way: four warm-up calls, then one each second, then the last, alone.
    ended = [0.0, 9.0, 9.1, 9.2, 10.0, 11.0, 12.0, 13.0, 13.1]
    assert pace.rate(ended, items=4, under_way=2) == pytest.approx(4.0)
    with pytest.raises(BenchmarkError, match="more --seconds"):
        pace.rate(ended[:4], items=4, under_way=2)


def test_several_calls_are_under_way_at_once() -> None:
    rate = pace.items_per_s(lambda: time.sleep(0.02), items=3, under_way=4, seconds=0.3)
    assert 300 < rate <= 650  # 4 × 3 items in 20 ms each


def test_what_a_call_raises_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        pace.items_per_s(lambda: 1 / 0, items=1, under_way=3, seconds=0.1)


def test_what_was_measured_is_read_back_to_go_on_with(tmp_path: Path) -> None:
    done = Run(MACHINE, SETTINGS, (case(2, 1, speed_up=1.8, stages=(21.0, 19.0)),), ("x: why",))
    file = tmp_path / "run.json"
    fresh = Run(MACHINE, SETTINGS)
    assert _begun(file, fresh) is fresh
    file.write_text(json.dumps(asdict(done)))
    assert _begun(file, fresh) == replace(done, failures=())
    with pytest.raises(BenchmarkError, match=r"'rounds': 3.*name another"):
        _begun(file, Run(MACHINE, {**SETTINGS, "rounds": 1}))
    file.write_text('{"cases": 1}')
    with pytest.raises(BenchmarkError, match="is not a result of this benchmark"):
        _begun(file, fresh)

"""Goals and tables of the parallelism benchmark, and its recipes."""

from __future__ import annotations

import itertools
from functools import partial

import benchmark_runs as runs
import pytest

from benchmarks.harness.results import CaseResult, Figures
from benchmarks.parallelism.cases import CASES
from benchmarks.parallelism.fed import CUT, WHOLE, FeedResult
from benchmarks.parallelism.goals import goals
from benchmarks.parallelism.table import markdown


def loads(rate: float) -> Figures:
    return {"p50 ms at c=1": 1.0, "req/s at c=1": rate, "req/s at c=16": rate, "errors": 0.0}


def fed(latency_ms: float, rate: float, stage_ms: tuple[float, ...] = ()) -> Figures:
    return FeedResult(latency_ms, {1: rate, 2: 1.1 * rate, 4: rate}, stage_ms).figures() | loads(
        rate
    )


def case(pipeline: int, speed_up: float, stages: tuple[float, float]) -> CaseResult:
    # The last round is an outlier, which a mean would show and a median does not.
    slow, rate = (1.0, 1.0, 10.0), 10 * speed_up
    predicted = {"latency_ms": 66.0, "items_per_s": 1.1 * rate, "built_stage_ms": [30.0, 30.0]}
    result = CaseResult(
        key="case",
        title="A case",
        facts={"layout": "cpu-x86/aoti/pp2.tp1", "after": ["relu"], "predicted": predicted},
        rounds=(
            *runs.measurements(WHOLE, *(fed(100 * by, 10 / by) for by in slow)),
            *runs.measurements(CUT, *(fed(60 * by, rate / by, stages) for by in slow)),
            *runs.measurements("torch-pipelining", FeedResult(200.0, {2: 5.0}).figures()),
        ),
    )
    judged = partial(goals, pipeline, {"latency_ms": 66.0, "items_per_s": 1.1 * rate})
    return result.model_copy(update={"goals": tuple(judged(result.medians))})


def judged(result: CaseResult) -> dict[str, tuple[float, bool]]:
    return {goal.claim: (pytest.approx(goal.measured), goal.met) for goal in result.goals}


def test_pipeline_has_goals_for_speed_balance_and_plan() -> None:
    assert judged(case(2, speed_up=1.8, stages=(21.0, 19.0))) == {
        "throughput, fed in-process, to one replica": (1.8, True),
        "throughput over HTTP, c=16, to one replica": (1.8, True),
        "slowest stage over the mean": (5.0, True),
        "predicted latency, off by": (10.0, True),
        "predicted throughput, off by": (pytest.approx(0.0, abs=1e-6), True),
    }


def test_missed_goals_are_named() -> None:
    run = runs.run("parallelism", case(2, speed_up=1.5, stages=(25.0, 15.0)))
    assert run.missed == [
        "case: throughput, fed in-process, to one replica is 1.50×, expected ≥ 1.75×",
        "case: throughput over HTTP, c=16, to one replica is 1.50×, expected ≥ 1.75×",
        "case: slowest stage over the mean is 25.00 %, expected ≤ 10.00 %",
    ]


def test_tensor_ranks_have_a_goal_for_latency() -> None:
    results = judged(case(1, speed_up=1.6, stages=(50.0, 50.0)))
    assert results["latency of one item, to one replica"] == (0.6, True)
    assert len(results) == 3


def test_peer_is_compared_at_its_own_micro_batch() -> None:
    text = markdown(runs.run("parallelism", case(2, 1.8, (20.0, 20.0))))
    cells = runs.row(text, "torch.distributed")
    assert cells[1:7] == ["200.00", "3.33×", "", "5.00", "", "0.25×"]
    assert cells[7:] == ["", "", "", ""]


def test_every_recipe_is_valid_and_of_one_kind() -> None:
    quick = (case.quick() for case in CASES.values())
    for case in itertools.chain(CASES.values(), quick):
        recipe = case.recipe()
        (cut,), (programs,) = recipe.parallel, recipe.programs
        assert (cut.pipeline, cut.tensor) == (case.pipeline, case.tensor)
        assert programs.kinds == (cut.kind,)
    names = [case.recipe().name for case in CASES.values()]
    assert len(set(names)) == len(names)


def test_feeding_is_read_back_from_json() -> None:
    plain = {"latency_ms": 2.0, "items_per_s": {"1": 3.0}, "stage_ms": [1.0, 3.0]}
    feeding = FeedResult.read(plain)
    assert feeding == FeedResult(2.0, {1: 3.0}, (1.0, 3.0))
    assert feeding.figures()["slowest stage over the mean, %"] == pytest.approx(50)

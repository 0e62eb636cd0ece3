"""Search with real trials: a tiny network on the digits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from cluster.compression.evaluation.validation import Validation
from cluster.compression.launch import InProcess, TaskResult
from cluster.compression.search import latency, search, trial
from cluster.compression.search.result import SearchResult
from cluster.compression.work import Work
from cluster.config.steps import Quantize
from cluster.errors import CompressionError, LostProcessError


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def score(bench: Any, module: torch.nn.Module) -> float:
    held_back = Validation("accuracy", bench.job.validation, bench.job.baseline)
    return held_back.score(module).value


def run(bench: Any, **job: object) -> SearchResult:
    return search.run(bench.recipe.search, bench.work, replace(bench.job, **job))


def test_search_returns_feasible_models_that_rebuild_as_measured(
    ready: Callable,
) -> None:
    bench = ready()
    outcome = run(bench)
    record = outcome.record(outcome.feasible[0].number, {0: "digits.front-0"})
    by_number = {candidate.number: candidate for candidate in (record.baseline, *record.trials)}
    assert 0 in {candidate.number for candidate in outcome.feasible}
    costs = [by_number[candidate.number].size_bytes for candidate in outcome.feasible]
    assert costs == sorted(costs)
    for candidate in outcome.feasible:
        work, records = candidate.build(bench.job)
        measured = by_number[candidate.number].score
        assert score(bench, work.module) == pytest.approx(measured.value, abs=1e-9)
        assert [record.kind for record in records] == [step.kind for step in candidate.steps]
        assert (work.precision is not None) == any(
            isinstance(step, Quantize) for step in candidate.steps
        )
    assert any(step.kind == "prune" for candidate in outcome.feasible for step in candidate.steps)

    assert record.chosen == outcome.feasible[0].number
    assert [candidate.number for candidate in record.trials] == [1, 2, 3, 4, 5]
    named = {
        number: candidate.artifact for number, candidate in by_number.items() if candidate.artifact
    }
    assert named == {0: "digits.front-0"}
    assert record.baseline.title == "uncompressed"
    assert record.baseline.drop_upper is not None
    assert {candidate.on_front for candidate in outcome.feasible} >= {True}

    (line,) = [line for line in bench.lines if line.startswith("search   best")]
    assert f"trial {record.chosen}" in line
    for candidate in by_number.values():
        if candidate.stage in ("recovered", "proxy"):
            assert any(line.startswith(f"trial {candidate.number:>4} ") for line in bench.lines)


@pytest.mark.slow
def test_second_run_reads_all_results_from_journal(ready: Callable) -> None:
    bench = ready({"space": {"schemes": ["none"]}})
    first = run(bench)
    assert first.resumed == 0

    class Forbidden(InProcess):
        def map_unordered(
            self, function: Callable, tasks: Sequence, at_once: int
        ) -> Iterator[TaskResult]:
            raise AssertionError(f"{len(tasks)} trials run again")

    second = run(bench, launcher=Forbidden())
    assert [candidate.number for candidate in second.feasible] == [
        candidate.number for candidate in first.feasible
    ]
    assert second.resumed == len(first.standing.results)
    assert second.record(0, {}).resumed == second.resumed


@pytest.mark.slow
def test_contributions_of_steps_add_up_to_trial(ready: Callable) -> None:
    bench = ready()
    outcome = run(bench)
    assert any(len(candidate.steps) == 3 for candidate in outcome.feasible)
    for candidate in outcome.feasible:
        record = outcome.record(candidate.number, {})
        trial_record = next(
            one for one in (record.baseline, *record.trials) if one.number == candidate.number
        )
        score = sum(change for _, change, _ in record.contributions)
        latency = sum(change for _, _, change in record.contributions)
        assert record.baseline.score.value + score == pytest.approx(trial_record.score.value)
        assert record.baseline.latency_ms + latency == pytest.approx(trial_record.latency_ms)
        assert len(record.contributions) == len(candidate.steps)


def test_no_trial_starts_after_time_budget(ready: Callable) -> None:
    bench = ready({"time_budget_s": 1e-6})
    outcome = run(bench)
    assert [candidate.number for candidate in outcome.feasible] == [0]
    record = outcome.record(0, {})
    assert {candidate.reason for candidate in record.trials} == {
        "the time budget, or the number of trials, was spent"
    }
    assert {candidate.stage for candidate in record.trials} == {"stopped"}
    assert any("which is the result" in line for line in bench.lines)
    work, records = outcome.feasible[0].build(bench.job)
    assert records == ()
    assert score(bench, work.module) == pytest.approx(score(bench, bench.work.module))


class Losing(InProcess):
    """Launcher that loses the processes of some trials, each a number of times."""

    def __init__(self, lost: dict[int, int]) -> None:
        self.lost = lost

    def map_unordered(
        self, function: Callable, tasks: Sequence, at_once: int
    ) -> Iterator[TaskResult]:
        for index, task in enumerate(tasks):
            if self.lost.get(task.number, 0) > 0:
                self.lost[task.number] -= 1
                yield TaskResult(index, lost=LostProcessError("the process died by signal 9"))
            else:
                yield TaskResult(index, function(task))


def test_lost_trial_is_retried_once_then_fails(ready: Callable) -> None:
    bench = ready({"space": {"prune": None, "schemes": ["none", "bf16", "fp16"]}})
    outcome = run(bench, launcher=Losing({1: 1, 2: 2}))
    record = outcome.record(0, {})
    assert record.trials[0].score is not None
    assert record.trials[1].stage == "failed"
    assert record.trials[1].reason == "its process died twice: the process died by signal 9"
    assert 2 not in [candidate.number for candidate in outcome.feasible]
    # The next job tries it again.
    assert run(bench).record(0, {}).trials[1].score is not None


def raising(error: BaseException, cause: BaseException | None = None) -> Callable:
    def fail(*arguments: object) -> None:
        raise error from cause

    return fail


@pytest.mark.parametrize(
    ("error", "passing"),
    [
        (OSError(28, "No space left on device"), True),
        (SafetensorError("Error while serializing: No space left on device"), True),
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"), True),
        (RuntimeError("no kernel for this layout"), False),
        (CompressionError("the scheme does not fit the model"), False),
    ],
)
def test_trial_reports_whether_its_failure_may_pass(
    error: Exception, passing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    task: Any = SimpleNamespace(number=1, stage="full", steps=(), not_after=float("inf"))
    for raised in (raising(error), raising(CompressionError("no program"), error)):
        monkeypatch.setattr(trial, "_measure", raised)
        result = trial.measure(task)
        assert result is not None
        assert result.failed
        assert result.passing == passing


@pytest.mark.slow
def test_trial_failed_by_full_disk_is_retried_by_next_job(
    ready: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = ready({"space": {"prune": None, "schemes": ["none", "bf16", "float8"]}})
    original_build = latency.builder.build
    full = raising(CompressionError("no program"), OSError(28, "No space left on device"))

    def build(work: Work, *rest: Any) -> object:
        return full() if work.precision else original_build(work, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(latency.builder, "build", build)
        trials = run(bench).record(0, {}).trials
    assert [candidate.stage for candidate in trials] == ["failed", "failed"]
    assert "no program" in trials[0].reason
    again = run(bench)
    assert again.resumed == 2  # the uncompressed model, and the scheme that never works
    assert again.record(0, {}).trials[0].score is not None


def test_unsupported_scheme_is_failed_trial_with_reason(ready: Callable) -> None:
    bench = ready({"space": {"prune": None, "schemes": ["none", "float8"]}})
    outcome = run(bench)
    (failed,) = outcome.record(0, {}).trials
    assert failed.stage == "failed"
    assert "float8" in failed.reason
    assert [candidate.number for candidate in outcome.feasible] == [0]


@pytest.mark.slow
def test_unmeasurable_uncompressed_model_ends_search(ready: Callable) -> None:
    bench = ready()
    with pytest.raises(CompressionError, match=r"cannot measure .* model: .*signal 9"):
        run(bench, launcher=Losing({0: 2}))


def test_limit_that_needs_more_samples_is_named(ready: Callable) -> None:
    bench = ready(gate={"max_accuracy_drop": 0.0001})
    outcome = run(bench)
    assert [candidate.number for candidate in outcome.feasible] == [0]
    (line,) = [line for line in bench.lines if "not even the uncompressed" in line]
    assert f"on {len(bench.job.validation)} validation samples" in line


@pytest.mark.slow
def test_sensitive_layers_are_measured_once_for_all_trials(ready: Callable) -> None:
    bench = ready(
        {
            "space": {
                "prune": None,
                "schemes": ["static_int8", "none"],
                "keep_most_sensitive": [1, 2],
            }
        },
        programs=[{"kinds": ["exported"]}],
    )
    outcome = run(bench)
    results = [result for result in outcome.standing.results.values() if result.number]
    most = next(result for result in results if result.steps[0].keep_most_sensitive == 2)
    other = next(result for result in results if result is not most)
    ranked = sorted(most.sensitivity, key=lambda name: -most.sensitivity[name])
    assert other.steps[0].keep == (ranked[0],)
    assert other.steps[0].keep_most_sensitive == 0


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"recovery": {"epochs": 1, "processes": 2}}, r"processes=2: .*parallel_trials"),
        (
            {
                "prune": {"method": "magnitude", "ratios": [0.5]},
                "recovery": {"kind": "distill", "epochs": 1},
            },
            "would fill the zeros",
        ),
    ],
)
def test_invalid_space_is_rejected(bench: Callable, space: dict, message: str) -> None:
    arguments = bench(search={"space": space})
    with pytest.raises(CompressionError, match=message):
        search.run(arguments.recipe.search, arguments.work, arguments.job)

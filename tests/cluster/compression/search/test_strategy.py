"""Decisions of the search, from simulated results of trials."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cluster.artifact.manifest import Drop, Score
from cluster.compression.search import space, strategy
from cluster.compression.search.journal import Stage, TrialResult
from cluster.compression.search.space import UNCOMPRESSED, Combination
from cluster.compression.search.standing import Goal, Standing
from cluster.config.search import PruneSpace, SearchSpace

SPACE = SearchSpace(
    prune=PruneSpace(ratios=(0.2, 0.4, 0.6, 0.8)), schemes=("none", "static_int8", "bf16")
)

SPEED = {"none": 1.0, "static_int8": 3.0, "bf16": 2.0}
QUANTIZED_DROP = {"none": 0.0, "static_int8": 0.002, "bf16": 0.0}
PRUNED_DROP = {None: 0.0, 0.2: 0.0, 0.4: 0.004, 0.6: 0.02, 0.8: 0.2}
"""Drop after the full recovery; three times as much after a part of it, 0.3 more before it."""

Measure = Callable[[Combination, Stage], TrialResult]


def simulated(combination: Combination, stage: Stage) -> TrialResult:
    ratio, scheme = combination.ratio, combination.leaf.scheme
    worse = {"full": 1.0, "partial": 3.0, "proxy": 1.0}[stage]
    drop = PRUNED_DROP[ratio] * worse + QUANTIZED_DROP[scheme]
    if stage == "proxy":
        drop += 0.3
    return result(combination, stage, drop, 10 * (1 - (ratio or 0.0)) / SPEED[scheme])


def result(
    combination: Combination, stage: Stage, drop: float, latency_ms: float, size_bytes: int = 0
) -> TrialResult:
    score = max(0.9 - drop, 0.0)
    return TrialResult(
        number=combination.number,
        stage=stage,
        steps=(),
        score=Score(value=score, low=score, high=score, samples=1000),
        drop=Drop(mean=drop, upper=drop + 0.001, confidence=0.95),
        latency_ms=latency_ms,
        size_bytes=size_bytes or round(latency_ms * 1e6),
    )


def goal(**fields: object) -> Goal:
    defaults = {
        "objective": "latency",
        "budget": 0.01,
        "max_trials": 100,
        "at_once": 1,
        "chance": 0.1,
    }
    return Goal(**(defaults | fields))  # type: ignore[arg-type]


def search(
    measure: Measure = simulated,
    within: SearchSpace = SPACE,
    wanted: Goal | None = None,
    known: dict | None = None,
) -> tuple[Standing, list[tuple[float | None, str, Stage]]]:
    """Run the whole strategy; return its state, and the trials after the known ones, in order."""
    wanted = wanted or goal()
    combinations = space.combinations(within)
    by_number = {combination.number: combination for combination in (UNCOMPRESSED, *combinations)}
    results = dict(known or {})
    log: list[tuple[float | None, str, Stage]] = []
    while attempts := strategy.next_round(combinations, results, wanted):
        for attempt in attempts:
            assert (attempt.number, attempt.stage) not in results, "a trial is repeated"
            combination = by_number[attempt.number]
            results[attempt.number, attempt.stage] = measure(combination, attempt.stage)
            log.append((combination.ratio, combination.leaf.scheme, attempt.stage))
    return Standing(combinations, results, wanted), log


def trained(log: list[tuple[float | None, str, Stage]]) -> set[float]:
    return {ratio for ratio, _, stage in log if stage == "full" and ratio is not None}


def best(standing: Standing) -> tuple[float | None, str]:
    assert standing.best is not None
    number = standing.best.number
    combination = next(
        combination
        for combination in (UNCOMPRESSED, *standing.combinations)
        if combination.number == number
    )
    return combination.ratio, combination.leaf.scheme


def test_strategy_finds_best_feasible_with_few_trainings() -> None:
    standing, log = search()
    assert best(standing) == (0.4, "static_int8")
    # After a part of the recovery 0.6 and 0.8 are far beyond, and 0.2 is slower than 0.4.
    assert {ratio for ratio, _, stage in log if stage == "partial"} == {0.2, 0.4, 0.6, 0.8}
    assert trained(log) == {0.4}


def test_trial_order_is_uncompressed_schemes_proxies() -> None:
    _, log = search()
    assert log[0] == (None, "none", "full")
    assert log[1:3] == [(None, "static_int8", "full"), (None, "bf16", "full")]
    stages = [stage for _, _, stage in log[3:]]
    assert stages[:12] == ["proxy"] * 12
    assert "proxy" not in stages[12:]


def test_equal_results_give_equal_decisions() -> None:
    assert search()[1] == search()[1]


@pytest.mark.parametrize("cut", [1, 3, 7, 15, 18, 19])
def test_strategy_resumes_identically_from_partial_results(cut: int) -> None:
    standing, log = search()
    known = dict(list(standing.results.items())[:cut])
    resumed, rest = search(known=known)
    assert best(resumed) == best(standing)
    assert set(log[cut:]) >= set(rest)


def test_ratios_above_infeasible_one_are_skipped() -> None:
    def collapsing(combination: Combination, stage: Stage) -> TrialResult:
        drop = 0.02 if combination.ratio else 0.0
        if stage == "proxy":
            drop = 0.3
        return simulated(combination, stage).model_copy(
            update={"drop": Drop(mean=drop, upper=drop, confidence=0.95)}
        )

    standing, log = search(collapsing)
    assert best(standing) == (None, "static_int8")
    assert 0.8 not in trained(log)
    largest = [combination for combination in standing.combinations if combination.ratio == 0.8]
    reasons = {combination.leaf.scheme: standing.verdict(combination) for combination in largest}
    assert reasons["static_int8"].endswith("with the same scheme is already over the budget")
    assert reasons["none"].startswith("by trial ")  # int8 has shown what the ratio costs


def test_combination_slower_than_feasible_one_is_not_trained() -> None:
    def pruned_slower(combination: Combination, stage: Stage) -> TrialResult:
        trial_result = simulated(combination, stage)
        if combination.pruned:
            return trial_result.model_copy(update={"latency_ms": 50.0})
        return trial_result

    standing, log = search(pruned_slower)
    assert not trained(log)
    assert not [entry for entry in log if entry[2] == "partial"]
    slow = next(combination for combination in standing.combinations if combination.pruned)
    assert standing.verdict(slow) == f"trial {standing.best.number} is feasible and faster"


def test_scheme_over_budget_is_not_combined_with_pruning() -> None:
    def bad_int8(combination: Combination, stage: Stage) -> TrialResult:
        trial_result = simulated(combination, stage)
        if combination.leaf.scheme == "static_int8":
            return result(combination, stage, 0.05, trial_result.latency_ms or 0.0)
        return trial_result

    standing, log = search(bad_int8)
    assert not [entry for entry in log if entry[1] == "static_int8" and entry[0]]
    assert best(standing) == (0.4, "bf16")
    pruned = next(
        combination
        for combination in standing.combinations
        if combination.pruned and combination.leaf.scheme == "static_int8"
    )
    assert standing.verdict(pruned) == "static_int8 alone drops 0.0500, over the budget"


def test_failed_combination_is_skipped() -> None:
    def failing(combination: Combination, stage: Stage) -> TrialResult:
        trial_result = simulated(combination, stage)
        if combination.leaf.scheme == "static_int8":
            return trial_result.model_copy(update={"failed": "quantized none"})
        return trial_result

    standing, _ = search(failing)
    assert best(standing) == (0.4, "bf16")
    failed = [
        combination
        for combination in standing.combinations
        if combination.leaf.scheme == "static_int8"
    ]
    assert {standing.verdict(combination) for combination in failed} == {"quantized none"}


def test_failed_partial_recovery_is_not_retried_forever() -> None:
    def failing(combination: Combination, stage: Stage) -> TrialResult:
        trial_result = simulated(combination, stage)
        return (
            trial_result.model_copy(update={"failed": "NaN"})
            if stage == "partial"
            else trial_result
        )

    standing, log = search(failing)
    assert len([entry for entry in log if entry[2] == "partial"]) <= 12
    assert standing.best is not None


def test_only_fastest_is_trained_without_budget() -> None:
    standing, log = search(wanted=goal(budget=None))
    assert best(standing) == (0.8, "static_int8")
    assert [entry for entry in log if entry[2] != "proxy" and entry[0]] == [
        (0.8, "static_int8", "full")
    ]


def test_ratios_with_chance_accuracy_come_last() -> None:
    def guessing(combination: Combination, stage: Stage) -> TrialResult:
        trial_result = simulated(combination, stage)
        if stage == "proxy" and combination.ratio in (0.6, 0.8):
            return result(combination, stage, 0.85, trial_result.latency_ms or 0.0)
        return trial_result

    _, log = search(guessing)
    recovered = [ratio for ratio, _, stage in log if stage in ("partial", "full") and ratio]
    assert recovered[0] in (0.2, 0.4)
    assert 0.8 not in recovered  # 0.6 is over the budget, so nothing larger can be within it


def test_objective_bytes_minimizes_bytes() -> None:
    def heavy_bf16(combination: Combination, stage: Stage) -> TrialResult:
        trial_result = simulated(combination, stage)
        size = 100 if combination.leaf.scheme == "bf16" else 200
        return trial_result.model_copy(
            update={"size_bytes": size - round(100 * (combination.ratio or 0))}
        )

    standing, _ = search(heavy_bf16, wanted=goal(objective="bytes"))
    assert best(standing) == (0.4, "bf16")


def test_full_trials_stay_within_their_limit() -> None:
    standing, log = search(wanted=goal(max_trials=3))
    full = [entry for entry in log if entry[2] == "full"]
    assert len(full) == 3 + 1  # and the uncompressed model
    assert standing.best is not None
    _, one = search(wanted=goal(max_trials=1))
    assert one == [(None, "none", "full"), (None, "static_int8", "full")]


def test_parallel_trials_divide_ratios() -> None:
    def all_good(combination: Combination, stage: Stage) -> TrialResult:
        return result(
            combination,
            stage,
            0.3 if stage == "proxy" else 0.008,
            simulated(combination, stage).latency_ms or 0.0,
        )

    combinations = space.combinations(SPACE)
    wanted = goal(at_once=2)
    results = {}
    sizes = []
    while attempts := strategy.next_round(combinations, results, wanted):
        by_number = {
            combination.number: combination for combination in (UNCOMPRESSED, *combinations)
        }
        ratios = [
            by_number[attempt.number].ratio for attempt in attempts if attempt.stage == "full"
        ]
        if any(ratios):
            sizes.append(len(ratios))
            assert len(set(ratios)) == len(ratios), "one training per ratio at a time"
        for attempt in attempts:
            combination = by_number[attempt.number]
            results[attempt.number, attempt.stage] = all_good(combination, attempt.stage)
    assert all(size <= 2 for size in sizes)
    assert best(Standing(combinations, results, wanted)) == (0.8, "static_int8")


def test_winner_with_partial_recovery_gets_full_recovery() -> None:
    def quick(combination: Combination, stage: Stage) -> TrialResult:
        drop = {"proxy": 0.3, "partial": 0.005, "full": 0.001}[stage]
        if combination.ratio == 0.8:
            drop = 0.3
        return result(
            combination,
            stage,
            drop if combination.pruned else 0.0,
            simulated(combination, stage).latency_ms or 0.0,
        )

    standing, log = search(quick)
    assert best(standing) == (0.6, "static_int8")
    assert log[-1] == (0.6, "static_int8", "full")
    assert standing.best.stage == "full"


def test_nothing_is_trained_if_uncompressed_model_is_infeasible() -> None:
    standing, log = search(wanted=goal(budget=0.0005))
    assert log == [(None, "none", "full")]
    assert standing.best is None
    assert standing.verdict(standing.combinations[0]).startswith("not even the uncompressed model")


def test_combination_with_most_kept_layers_measures_sensitivity() -> None:
    within = SearchSpace(prune=None, schemes=("static_int8", "bf16"), keep_most_sensitive=(0, 4, 2))
    combinations = space.combinations(within)
    # bf16 has no layers to keep, so it stands there once.
    assert [(combination.leaf.scheme, combination.leaf.keep) for combination in combinations] == [
        ("static_int8", 0),
        ("static_int8", 2),
        ("static_int8", 4),
        ("bf16", 0),
    ]
    zero = {(0, "full"): result(UNCOMPRESSED, "full", 0.0, 10.0)}
    first = strategy.next_round(combinations, zero, goal())
    assert [attempt.number for attempt in first] == [3, 4]


def test_no_proxy_starts_near_time_limit() -> None:
    standing, _ = search(wanted=goal(max_trials=3))
    known = {key: value for key, value in standing.results.items() if value.stage == "full"}
    known = {key: known[key] for key in list(known)[:3]}
    combinations = space.combinations(SPACE)
    assert strategy.next_round(combinations, known, goal())[0].stage == "proxy"
    assert strategy.next_round(combinations, known, goal(), hurry=True) == ()

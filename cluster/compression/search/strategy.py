"""Next trials of a search, decided by the results so far alone. Pure.

    unpruned   every scheme alone: its cost, and finished models
    proxies    pruned, without recovery: latency and bytes are final, the score is a lower bound
    partial    a third of the recovery for each ratio; a ratio far over the budget is dropped
    full       all of the recovery: bisection over the ratios, the best objective first
    finish     all of the recovery for a winner that had only a part of it

Latency and bytes do not depend on the training of a pruned model, so a combination that is no
better than a feasible one is never trained. One recovery serves all schemes of its ratio. Dropping
the worse candidates after a part of the training is successive halving (Jamieson and Talwalkar,
"Non-stochastic Best Arm Identification and Hyperparameter Optimization", 2016), with the distance
to the budget in place of the fixed half.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cluster.compression.search.journal import Stage
from cluster.compression.search.space import UNCOMPRESSED, Combination
from cluster.compression.search.standing import Goal, Results, Standing

PARTIAL_SHARE = 1 / 3
"""Share of the recovery's updates in a partial training."""

WORTH_HALVING = 3
"""Minimum number of ratios for which partial trainings cost less than the trainings they save."""


@dataclass(frozen=True)
class Attempt:
    """One stage of one trial."""

    number: int
    stage: Stage


def next_round(
    combinations: Sequence[Combination], results: Results, goal: Goal, *, hurry: bool = False
) -> tuple[Attempt, ...]:
    """Return the attempts to run next, concurrently; empty when the search is over.

    ``combinations`` excludes the uncompressed model. ``hurry``: no further proxies.
    """
    standing = Standing(combinations, results, goal)
    if (UNCOMPRESSED.number, "full") not in results:
        return (Attempt(UNCOMPRESSED.number, "full"),)  # all others are compared with it
    # If the unchanged model cannot be shown to be within the budget, no model can.
    if standing.room == 0 or not goal.feasible(results[UNCOMPRESSED.number, "full"]):
        return ()
    attempts = tuple(_unpruned(standing))
    for choose in (*(() if hurry else (_proxies,)), _partial, _followers, _bisected, _finish):
        attempts = attempts or tuple(choose(standing))
    full = [attempt for attempt in attempts if attempt.stage == "full"]
    return tuple(attempt for attempt in attempts if attempt not in full[standing.room :])


def _unpruned(standing: Standing) -> Iterator[Attempt]:
    """Yield unpruned schemes: first, of each scheme, the variant with most bfloat16 layers.

    The variant measures which layers are sensitive.
    """
    unpruned = [candidate for candidate in standing.combinations if not candidate.pruned]
    most: dict[str, Combination] = {}
    for candidate in unpruned:
        if candidate.leaf.keep >= most.get(candidate.leaf.scheme, candidate).leaf.keep:
            most[candidate.leaf.scheme] = candidate
    for group in (most.values(), unpruned):
        missing = [member for member in group if (member.number, "full") not in standing.results]
        if missing:
            yield from (Attempt(member.number, "full") for member in missing)
            return


def _proxies(standing: Standing) -> Iterator[Attempt]:
    for candidate in standing.combinations:
        missing = candidate.pruned and (candidate.number, "proxy") not in standing.results
        if missing and not standing.scheme_over(candidate.leaf):
            yield Attempt(candidate.number, "proxy")


def _partial(standing: Standing) -> Iterator[Attempt]:
    """Yield a part of the recovery for each likely ratio, with its best scheme."""
    trained = {
        candidate.ratio for candidate in standing.combinations if _has(standing, candidate, "full")
    }
    tried = {
        candidate.ratio
        for candidate in standing.combinations
        if (candidate.number, "partial") in standing.results
    }
    best_of: dict[float | None, Combination] = {}
    for candidate in standing.likely:
        best_of.setdefault(candidate.ratio, candidate)
    # Finished ones count too: a search that was killed between them continues with the rest.
    few = len(tried | best_of.keys()) < WORTH_HALVING
    if standing.goal.budget is None or trained - {None} or few:
        return
    for ratio in sorted(best_of, key=lambda ratio: ratio or 0.0):
        if ratio not in tried:
            yield Attempt(best_of[ratio].number, "partial")


def _followers(standing: Standing) -> Iterator[Attempt]:
    """Yield other schemes of a recovered ratio: they cost no training."""
    recovered = {
        candidate.ratio for candidate in standing.combinations if _has(standing, candidate, "full")
    }
    followers = [candidate for candidate in standing.open if candidate.ratio in recovered]
    yield from (
        Attempt(candidate.number, "full") for candidate in followers[: standing.goal.at_once]
    )


def _bisected(standing: Standing) -> Iterator[Attempt]:
    """Yield ratios that divide the open ratios of the best scheme into equal parts."""
    if not standing.likely:
        return
    leaf = standing.likely[0].leaf
    rising = sorted(
        (candidate for candidate in standing.likely if candidate.leaf == leaf),
        key=lambda candidate: candidate.ratio or 0.0,
    )
    parts = standing.goal.at_once + 1
    if standing.goal.budget is None:  # without a budget the best is the last; nothing to bisect
        chosen = [standing.likely[0]]
    else:
        places = {(part * len(rising)) // parts for part in range(1, parts)}
        chosen = [rising[place] for place in sorted(places)]
    yield from (Attempt(candidate.number, "full") for candidate in chosen)


def _finish(standing: Standing) -> Iterator[Attempt]:
    best = standing.best
    partial = best is not None and best.stage == "partial"
    if best is not None and partial and (best.number, "full") not in standing.results:
        yield Attempt(best.number, "full")


def _has(standing: Standing, combination: Combination, stage: Stage) -> bool:
    result = standing.results.get((combination.number, stage))
    return result is not None and not result.failed

"""Which trials come next, decided by the results so far and by nothing else. Pure.

    unpruned   every scheme alone: what it costs, and models that are finished
    proxies    pruned, without recovery: latency and bytes are final, the score is a lower bound
    partial    a third of the recovery for each ratio; what is far beyond the budget is given up
    full       all of the recovery: bisection over the ratios, the best objective first
    finish     all of the recovery for a winner that had only a part of it

Latency and bytes do not depend on how long a pruned model was trained, so a combination that is no
better than a feasible one is never trained. One recovery serves all schemes of its ratio. Giving up
the worse part of the field after a part of the training is successive halving (Jamieson and
Talwalkar, "Non-stochastic Best Arm Identification and Hyperparameter Optimization", 2016), with the
budget's distance in place of the fixed half.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cluster.compression.search.journal import Stage
from cluster.compression.search.space import UNCOMPRESSED, Combination
from cluster.compression.search.standing import Goal, Results, Standing

PARTIAL_SHARE = 1 / 3
"""Of the recovery's updates."""

WORTH_HALVING = 3
"""Ratios from which on a part of the training for each is less than the trainings it saves."""


@dataclass(frozen=True)
class Attempt:
    """One stage of one trial."""

    number: int
    stage: Stage


def next_round(
    combinations: Sequence[Combination], results: Results, goal: Goal, *, hurry: bool = False
) -> tuple[Attempt, ...]:
    """What to run next, side by side; empty when the search is over.

    ``combinations`` without the uncompressed model. ``hurry``: no further proxies.
    """
    standing = Standing(combinations, results, goal)
    if (UNCOMPRESSED.number, "full") not in results:
        return (Attempt(UNCOMPRESSED.number, "full"),)  # all others are compared with it
    # If not even an unchanged model can be shown to be within the budget, nothing can.
    if standing.room == 0 or not goal.feasible(results[UNCOMPRESSED.number, "full"]):
        return ()
    attempts = tuple(_unpruned(standing))
    for choose in (*(() if hurry else (_proxies,)), _partial, _followers, _bisected, _finish):
        attempts = attempts or tuple(choose(standing))
    full = [each for each in attempts if each.stage == "full"]
    return tuple(each for each in attempts if each not in full[standing.room :])


def _unpruned(standing: Standing) -> Iterator[Attempt]:
    """First, of each scheme, the one that keeps most layers: it finds the sensitive ones."""
    alone = [each for each in standing.combinations if not each.pruned]
    most: dict[str, Combination] = {}
    for each in alone:
        if each.leaf.keep >= most.get(each.leaf.scheme, each).leaf.keep:
            most[each.leaf.scheme] = each
    for group in (most.values(), alone):
        missing = [each for each in group if (each.number, "full") not in standing.results]
        if missing:
            yield from (Attempt(each.number, "full") for each in missing)
            return


def _proxies(standing: Standing) -> Iterator[Attempt]:
    for each in standing.combinations:
        missing = each.pruned and (each.number, "proxy") not in standing.results
        if missing and not standing.scheme_over(each.leaf):
            yield Attempt(each.number, "proxy")


def _partial(standing: Standing) -> Iterator[Attempt]:
    """A part of the recovery for each likely ratio, seen through its best scheme."""
    trained = {each.ratio for each in standing.combinations if _has(standing, each, "full")}
    tried = {
        each.ratio for each in standing.combinations if (each.number, "partial") in standing.results
    }
    best_of: dict[float | None, Combination] = {}
    for each in standing.likely:
        best_of.setdefault(each.ratio, each)
    # Those tried count too: a search that was killed among them goes on with the rest.
    few = len(tried | best_of.keys()) < WORTH_HALVING
    if standing.goal.budget is None or trained - {None} or few:
        return
    for ratio in sorted(best_of, key=lambda ratio: ratio or 0.0):
        if ratio not in tried:
            yield Attempt(best_of[ratio].number, "partial")


def _followers(standing: Standing) -> Iterator[Attempt]:
    """Other schemes of a ratio that is recovered already: they cost no training."""
    recovered = {each.ratio for each in standing.combinations if _has(standing, each, "full")}
    found = [each for each in standing.open if each.ratio in recovered]
    yield from (Attempt(each.number, "full") for each in found[: standing.goal.at_once])


def _bisected(standing: Standing) -> Iterator[Attempt]:
    """Ratios that divide what is open of the best scheme into equal parts."""
    if not standing.likely:
        return
    leaf = standing.likely[0].leaf
    rising = sorted(
        (each for each in standing.likely if each.leaf == leaf), key=lambda each: each.ratio or 0.0
    )
    parts = standing.goal.at_once + 1
    if standing.goal.budget is None:  # nothing to be found out: the best is the last
        chosen = [standing.likely[0]]
    else:
        places = {(part * len(rising)) // parts for part in range(1, parts)}
        chosen = [rising[place] for place in sorted(places)]
    yield from (Attempt(each.number, "full") for each in chosen)


def _finish(standing: Standing) -> Iterator[Attempt]:
    best = standing.best
    partial = best is not None and best.stage == "partial"
    if best is not None and partial and (best.number, "full") not in standing.results:
        yield Attempt(best.number, "full")


def _has(standing: Standing, combination: Combination, stage: Stage) -> bool:
    result = standing.results.get((combination.number, stage))
    return result is not None and not result.failed

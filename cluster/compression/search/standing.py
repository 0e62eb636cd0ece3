"""What the results of a search say of each combination. Pure.

results + Goal → Standing: what is final, feasible, best; what is closed, and why
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from cluster.compression.search.journal import Stage, TrialResult
from cluster.compression.search.space import UNCOMPRESSED, Combination, Leaf

FAR_BEYOND = 3.0
"""Drop after a part of the recovery, over the largest of the budget, the least drop of any
ratio, and :data:`LEAST_SLACK`: beyond it a ratio is given up."""

LEAST_SLACK = 0.01
"""One point: few validation samples show no finer differences."""

ROUNDING = 1e-9
"""Shares are counts over the same samples: a hair over the budget is rounding."""

STAGES: tuple[Stage, ...] = ("full", "partial", "proxy")
"""The latest first."""

Results = Mapping[tuple[int, Stage], TrialResult]
"""By number and stage."""


@dataclass(frozen=True)
class Goal:
    """What the search is for."""

    objective: Literal["latency", "throughput", "bytes"]
    budget: float | None
    """Largest upper bound of the drop; None makes everything feasible."""

    max_trials: int
    at_once: int
    chance: float
    """Score of a model that guesses."""

    def cost(self, result: TrialResult) -> float | None:
        """What is minimized. At one batch size, the lowest latency is the highest throughput."""
        return result.size_bytes if self.objective == "bytes" else result.latency_ms

    def feasible(self, result: TrialResult) -> bool:
        """Whether it is a finished model within the budget."""
        if result.failed or result.drop is None or result.stage == "proxy":
            return False
        return self.budget is None or result.drop.upper <= self.budget + ROUNDING


@dataclass(frozen=True)
class Standing:
    """What the results say of each combination."""

    combinations: Sequence[Combination]
    results: Results
    goal: Goal

    @property
    def room(self) -> int:
        """How many more combinations may be tried in full; the uncompressed model is free."""
        full = sum(stage == "full" and number > 0 for number, stage in self.results)
        return max(0, self.goal.max_trials - full)

    def final(self, combination: Combination) -> TrialResult | None:
        """The result that counts: of the latest stage, or of a feasible one where that is none."""
        found = [
            self.results[combination.number, stage]
            for stage in STAGES
            if (combination.number, stage) in self.results
        ]
        return next((each for each in found if self.goal.feasible(each)), next(iter(found), None))

    @cached_property
    def best(self) -> TrialResult | None:
        """The feasible result of the least cost."""
        found = [self.final(each) for each in (UNCOMPRESSED, *self.combinations)]
        feasible = [each for each in found if each is not None and self.goal.feasible(each)]
        return min(feasible, key=self.order, default=None)

    def order(self, result: TrialResult) -> tuple[float, float, int]:
        """Key to sort by: the least cost first, then the least drop."""
        cost, drop = self.goal.cost(result), result.drop
        return (cost or 0.0, drop.upper if drop else 0.0, result.number)

    @cached_property
    def open(self) -> tuple[Combination, ...]:
        """Pruned combinations whose recovery could still pay, in the order of their cost."""
        found = [each for each in self.combinations if each.pruned and not self.closed(each)]
        found = [each for each in found if (each.number, "proxy") in self.results]
        return tuple(sorted(found, key=lambda each: (self.cost(each), each.number)))

    def cost(self, combination: Combination) -> float:
        """By its proxy, which it must have."""
        return self.goal.cost(self.results[combination.number, "proxy"]) or 0.0

    def closed(self, combination: Combination) -> str:
        """Why a pruned combination needs no further training; empty if it may."""
        if alone := self.scheme_over(combination.leaf):
            return alone
        for stage in STAGES:
            tried = self.results.get((combination.number, stage))
            if tried is not None and tried.failed:
                return tried.failed
        if (combination.number, "full") in self.results:
            return "finished"
        if too_large := self._infeasible_ratio(combination):
            return too_large
        if combination.ratio in self.far_beyond:
            return (
                f"after a part of the recovery its drop is {self.far_beyond[combination.ratio]:.4f}"
                f", far over the budget of {self.goal.budget:g}"
            )
        best = self.best
        proxied = (combination.number, "proxy") in self.results
        if best is not None and proxied and self.cost(combination) >= (self.goal.cost(best) or 0.0):
            better = "smaller" if self.goal.objective == "bytes" else "faster"
            return f"trial {best.number} is feasible and {better}"
        return ""

    def scheme_over(self, leaf: Leaf) -> str:
        """Why nothing pruned can be within the budget with this scheme; empty if it may.

        By the mean, not its bound: recovery may win back a little.
        """
        if leaf == UNCOMPRESSED.leaf or (alone := self.unpruned(leaf)) is None:
            return ""
        if alone.failed:
            return alone.failed
        if self.goal.budget is None or alone.drop is None:
            return ""
        if alone.drop.mean <= self.goal.budget + ROUNDING:
            return ""
        return f"{leaf.scheme} alone drops {alone.drop.mean:.4f}, over the budget"

    def unpruned(self, leaf: Leaf) -> TrialResult | None:
        """The result of the scheme without pruning, if it is in."""
        numbers = [
            each.number for each in self.combinations if (each.ratio, each.leaf) == (None, leaf)
        ]
        return self.results.get((numbers[0], "full")) if numbers else None

    def _infeasible_ratio(self, combination: Combination) -> str:
        """Why the ratio is too large, by a ratio that is not larger and was recovered in full.

        What pruning costs beside another scheme is that trial's drop without the scheme's own.
        """
        budget = self.goal.budget
        for other in self.combinations:
            result = self.results.get((other.number, "full"))
            if (
                budget is None
                or other.ratio is None
                or other.ratio > (combination.ratio or 0.0)
                or result is None
                or result.drop is None
                or self.goal.feasible(result)
            ):
                continue
            if other.leaf == combination.leaf:
                return f"ratio {other.ratio:g} with the same scheme is over the budget already"
            expected = result.drop.mean - self._alone(other.leaf) + self._alone(combination.leaf)
            if expected > budget + ROUNDING:
                return f"by trial {other.number} ratio {other.ratio:g} would drop {expected:.4f}"
        return ""

    def _alone(self, leaf: Leaf) -> float:
        """Mean drop of the scheme without pruning."""
        result = self.unpruned(leaf)
        return result.drop.mean if result is not None and result.drop is not None else 0.0

    @cached_property
    def far_beyond(self) -> dict[float | None, float]:
        """Ratio → mean drop, for those that a part of the recovery has left far over the budget."""
        drops = {
            each.ratio: result.drop.mean
            for each in self.combinations
            if (result := self.results.get((each.number, "partial"))) and result.drop
        }
        if self.goal.budget is None or not drops:
            return {}
        slack = max(self.goal.budget, min(drops.values()), LEAST_SLACK)
        return {ratio: drop for ratio, drop in drops.items() if drop > FAR_BEYOND * slack}

    @cached_property
    def likely(self) -> tuple[Combination, ...]:
        """The open ones whose models do not guess before recovery; when there are no more of
        them, the smallest ratio of the others."""
        if self.goal.budget is None:  # however much they lose, they are feasible
            return self.open
        guessing = {
            each.ratio
            for each in self.combinations
            if (proxy := self.results.get((each.number, "proxy")))
            and proxy.score is not None
            and proxy.score.low <= self.goal.chance
        }
        likely = tuple(each for each in self.open if each.ratio not in guessing)
        smallest = min((each.ratio or 0.0 for each in self.open), default=None)
        return likely or tuple(each for each in self.open if each.ratio == smallest)

    def verdict(self, combination: Combination) -> str:
        """Why the search left the combination where it is; empty if it was tried in full."""
        result = self.final(combination)
        if result is not None and (result.failed or result.stage == "full"):
            return result.failed
        if result is not None and self.goal.feasible(result):
            return ""
        if reason := self.closed(combination) if combination.pruned else "":
            return reason
        if not self.goal.feasible(self.results[UNCOMPRESSED.number, "full"]):
            return "not even the uncompressed model is shown to be within the budget"
        return "the time, or the number of trials, was over"

"""Standing of each combination by the results of a search. Pure.

results + Goal → Standing: final results, feasible ones, the best; closed combinations with reasons
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from cluster.compression.search.journal import Stage, TrialResult
from cluster.compression.search.space import UNCOMPRESSED, Combination, Leaf

FAR_BEYOND = 3.0
"""Maximum drop after a part of the recovery, as a multiple of the slack. A ratio beyond it is
dropped. The slack is the largest of the budget, the least drop and :data:`LEAST_SLACK`."""

LEAST_SLACK = 0.01
"""Smallest slack, one point: few validation samples show no finer differences."""

ROUNDING = 1e-9
"""Tolerance over the budget: shares are counts over the same samples, and may be rounded."""

STAGES: tuple[Stage, ...] = ("full", "partial", "proxy")
"""Stages, the latest first."""

Results = Mapping[tuple[int, Stage], TrialResult]
"""Results by number and stage."""


@dataclass(frozen=True)
class Goal:
    """Goal and limits of the search."""

    objective: Literal["latency", "throughput", "bytes"]
    budget: float | None
    """Largest upper bound of the drop; None makes everything feasible."""

    max_trials: int
    at_once: int
    chance: float
    """Score of a model that guesses."""

    def cost(self, result: TrialResult) -> float | None:
        """Return the minimized quantity. At one batch size, throughput is best at least latency."""
        return result.size_bytes if self.objective == "bytes" else result.latency_ms

    def feasible(self, result: TrialResult) -> bool:
        """Return whether the result is a finished model within the budget."""
        if result.failed or result.drop is None or result.stage == "proxy":
            return False
        return self.budget is None or result.drop.upper <= self.budget + ROUNDING


@dataclass(frozen=True)
class Standing:
    """Standing of each combination by the results so far."""

    combinations: Sequence[Combination]
    results: Results
    goal: Goal

    @property
    def room(self) -> int:
        """Number of full trials that remain; the uncompressed model does not count."""
        full = sum(stage == "full" and number > 0 for number, stage in self.results)
        return max(0, self.goal.max_trials - full)

    def final(self, combination: Combination) -> TrialResult | None:
        """Return the final result: of the latest feasible stage, else of the latest stage."""
        results = [
            self.results[combination.number, stage]
            for stage in STAGES
            if (combination.number, stage) in self.results
        ]
        feasible = (result for result in results if self.goal.feasible(result))
        return next(feasible, next(iter(results), None))

    @cached_property
    def best(self) -> TrialResult | None:
        """Feasible result of the least cost."""
        results = map(self.final, (UNCOMPRESSED, *self.combinations))
        feasible = [result for result in results if result and self.goal.feasible(result)]
        return min(feasible, key=self.order, default=None)

    def order(self, result: TrialResult) -> tuple[float, float, int]:
        """Return a sort key: the least cost first, then the least drop."""
        cost, drop = self.goal.cost(result), result.drop
        return (cost or 0.0, drop.upper if drop else 0.0, result.number)

    @cached_property
    def open(self) -> tuple[Combination, ...]:
        """Pruned combinations whose recovery could still pay, in the order of their cost."""
        measured = [c for c in self.combinations if (c.number, "proxy") in self.results]
        candidates = [c for c in measured if c.pruned and not self.closed(c)]
        return tuple(sorted(candidates, key=lambda c: (self.cost(c), c.number)))

    def cost(self, combination: Combination) -> float:
        """Return the cost by the combination's proxy, which must exist."""
        return self.goal.cost(self.results[combination.number, "proxy"]) or 0.0

    def closed(self, combination: Combination) -> str:
        """Return why a pruned combination needs no further training; empty if it may need it."""
        if reason := self.scheme_over(combination.leaf):
            return reason
        for stage in STAGES:
            result = self.results.get((combination.number, stage))
            if result is not None and result.failed:
                return result.failed
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
        """Return why no pruned model with this scheme can be within the budget; empty if one may.

        The mean decides, not its bound, because recovery may gain a little.
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
        """Return the result of the scheme without pruning; None before it is measured."""
        numbers = [c.number for c in self.combinations if (c.ratio, c.leaf) == (None, leaf)]
        return self.results.get((numbers[0], "full")) if numbers else None

    def _infeasible_ratio(self, combination: Combination) -> str:
        """Return why the ratio is too large, by an equal or smaller one with full recovery.

        The drop of pruning with another scheme is that trial's drop minus the scheme's own drop.
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
                return f"ratio {other.ratio:g} with the same scheme is already over the budget"
            expected = result.drop.mean - self._alone(other.leaf) + self._alone(combination.leaf)
            if expected > budget + ROUNDING:
                return f"by trial {other.number} ratio {other.ratio:g} would drop {expected:.4f}"
        return ""

    def _alone(self, leaf: Leaf) -> float:
        """Return the mean drop of the scheme without pruning."""
        result = self.unpruned(leaf)
        return result.drop.mean if result is not None and result.drop is not None else 0.0

    @cached_property
    def far_beyond(self) -> dict[float | None, float]:
        """Ratio → mean drop, of ratios far over the budget after a part of the recovery."""
        drops = {
            combination.ratio: result.drop.mean
            for combination in self.combinations
            if (result := self.results.get((combination.number, "partial"))) and result.drop
        }
        if self.goal.budget is None or not drops:
            return {}
        slack = max(self.goal.budget, min(drops.values()), LEAST_SLACK)
        return {ratio: drop for ratio, drop in drops.items() if drop > FAR_BEYOND * slack}

    @cached_property
    def likely(self) -> tuple[Combination, ...]:
        """Open combinations whose models do not guess before recovery.

        If none is left, those of the smallest open ratio.
        """
        if self.goal.budget is None:  # every result is feasible
            return self.open
        guessing = {
            combination.ratio
            for combination in self.combinations
            if (proxy := self.results.get((combination.number, "proxy")))
            and proxy.score is not None
            and proxy.score.low <= self.goal.chance
        }
        likely = tuple(c for c in self.open if c.ratio not in guessing)
        smallest = min((c.ratio or 0.0 for c in self.open), default=None)
        return likely or tuple(c for c in self.open if c.ratio == smallest)

    def verdict(self, combination: Combination) -> str:
        """Return why the search did not finish the combination; empty if it did."""
        result = self.final(combination)
        if result is not None and (result.failed or result.stage == "full"):
            return result.failed
        if result is not None and self.goal.feasible(result):
            return ""
        if reason := self.closed(combination) if combination.pruned else "":
            return reason
        if not self.goal.feasible(self.results[UNCOMPRESSED.number, "full"]):
            return "not even the uncompressed model is shown to be within the budget"
        return "the time budget, or the number of trials, was spent"

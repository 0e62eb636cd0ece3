"""Result of a search: the models within the budget, and the record of all trials.

SearchResult.feasible → Trial.build → Work, its records
SearchResult.record   → SearchRecord: every trial, the Pareto front, contributions of steps
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from cluster.compression import steps
from cluster.compression.record import SearchRecord, StepRecord, TrialRecord
from cluster.compression.search import trial
from cluster.compression.search.journal import TrialResult
from cluster.compression.search.space import UNCOMPRESSED, Combination, title
from cluster.compression.search.standing import Results, Standing
from cluster.compression.work import Job, Work
from cluster.config.search import Search
from cluster.config.steps import Quantize, Step
from cluster.models import copy_of

Point = tuple[float, float, float]
"""Score (more is better), latency in ms and bytes (less is better)."""


@dataclass(frozen=True)
class Trial:
    """Model of a search, within the budget."""

    number: int
    steps: tuple[Step, ...]
    on_front: bool
    file: Path
    """File of :func:`trial.measure` with the float32 weights before the quantize step."""

    base: Work
    """Initial model of the search."""

    def build(self, job: Job) -> tuple[Work, tuple[StepRecord, ...]]:
        """Rebuild the trial's model; return it and the records of its steps.

        Weights come from the trial's file; only the quantize step runs again, in this process.
        CompressionError if the file is missing.
        """
        fresh = Work.of(copy_of(self.base.module), self.base.inputs)
        model = trial.read(self.file, fresh)
        quantize = [step for step in self.steps if isinstance(step, Quantize)]
        if not quantize:
            return model.work, model.records
        torch.manual_seed(job.seed)
        trial_job = job.for_step(job.checkpoints / f"trial-{self.number}")
        work, records = steps.run(model.work, quantize, trial_job)
        return work, (*model.records, *records)


@dataclass(frozen=True)
class SearchResult:
    """Result of a search."""

    search: Search
    standing: Standing
    folder: Path
    base: Work
    resumed: int
    seconds: float

    @cached_property
    def feasible(self) -> tuple[Trial, ...]:
        """Models within the budget, the best by the objective first.

        The uncompressed model is always included: last, if no measurement shows it feasible.
        """
        standing = self.standing
        feasible = [result for result in self._final if standing.goal.feasible(result)]
        feasible.sort(key=standing.order)
        uncompressed = standing.results[UNCOMPRESSED.number, "full"]
        if uncompressed not in feasible:
            feasible.append(uncompressed)
        return tuple(self._trial(result) for result in feasible)

    def record(self, chosen: int, artifacts: Mapping[int, str]) -> SearchRecord:
        """Return the record of all trials.

        ``chosen``: number of the best trial that can become an artifact. ``artifacts``: number →
        name of each published trial.
        """
        records = [
            self._record(combination, artifacts.get(combination.number))
            for combination in (UNCOMPRESSED, *self.standing.combinations)
        ]
        return SearchRecord(
            objective=self.search.objective,
            batch=self.search.batch,
            budget=self.standing.goal.budget,
            baseline=records[0],
            trials=tuple(records[1:]),
            chosen=chosen,
            contributions=contributions(self.standing, chosen),
            resumed=self.resumed,
            seconds=self.seconds,
        )

    @cached_property
    def _final(self) -> list[TrialResult]:
        """Final result of every combination that has one, the uncompressed model's first."""
        combinations = (UNCOMPRESSED, *self.standing.combinations)
        results = map(self.standing.final, combinations)
        return [result for result in results if result is not None]

    @cached_property
    def _front(self) -> set[int]:
        """Numbers of the finished models on the Pareto front of score, latency and bytes."""
        finished = [
            result for result in self._final if result.stage != "proxy" and not result.failed
        ]
        points = [
            (
                result.score.value if result.score else math.nan,
                math.nan if result.latency_ms is None else result.latency_ms,
                math.nan if result.size_bytes is None else float(result.size_bytes),
            )
            for result in finished
        ]
        return {finished[place].number for place in pareto_front(points)}

    def _trial(self, result: TrialResult) -> Trial:
        return Trial(
            number=result.number,
            steps=result.steps,
            on_front=result.number in self._front,
            file=self.folder / (result.weights or trial.BASE),
            base=self.base,
        )

    def _record(self, combination: Combination, artifact: str | None) -> TrialRecord:
        standing, number = self.standing, combination.number
        result = standing.final(combination)
        feasible = result is not None and standing.goal.feasible(result)
        reason = standing.verdict(combination)
        record = TrialRecord(
            number=number,
            title=title(self.search.space, combination),
            steps=(),
            stage="stopped",
            reason=reason,
            feasible=feasible,
            on_front=number in self._front,
            artifact=artifact,
        )
        if result is None:
            return record
        stage = "proxy" if result.stage == "proxy" or not combination.pruned else "recovered"
        return record.model_copy(
            update={
                "steps": tuple(step.model_dump(mode="json") for step in result.steps),
                "stage": "failed" if result.failed else "stopped" if reason else stage,
                "score": result.score,
                "drop_upper": result.drop.upper if result.drop else None,
                "latency_ms": result.latency_ms,
                "size_bytes": result.size_bytes,
                "seconds": _seconds(standing.results, number),
            }
        )


def pareto_front(points: Sequence[Point]) -> set[int]:
    """Return the positions of the points that no other point dominates.

    One point dominates another if it is at least as good in score, latency and bytes, and better
    in one of them (Pareto, "Manuale di economia politica", 1906). Equal points do not dominate
    each other. A point with a value that is not finite was not measured; it is never on the front.
    """
    measured = {i: point for i, point in enumerate(points) if all(map(math.isfinite, point))}
    return {
        i
        for i, point in measured.items()
        if not any(_dominates(other, point) for other in measured.values())
    }


def _dominates(one: Point, other: Point) -> bool:
    as_good = one[0] >= other[0] and one[1] <= other[1] and one[2] <= other[2]
    return as_good and one != other


def contributions(standing: Standing, number: int) -> tuple[tuple[str, float, float], ...]:
    """Return each step's contribution: title, change of the score, change of the latency in ms.

    The latency after a step is known only if a trial ended there. Steps up to the next known
    latency form one entry. Recovery does not change the latency.
    """
    combination = next((c for c in standing.combinations if c.number == number), None)
    final = standing.final(combination) if combination else None
    before = standing.results[UNCOMPRESSED.number, "full"]
    if combination is None or final is None or not final.steps or before.score is None:
        return ()
    score, latency = before.score.value, before.latency_ms or 0.0
    pruned = _pruned_latency(standing, combination)
    entries, titles, base_score = [], list[str](), score
    for step, after in zip(final.steps, final.step_scores, strict=True):
        titles.append(steps.title(step))
        known = final.latency_ms if step is final.steps[-1] else pruned
        if known is not None:
            entries.append((" + ".join(titles), after - base_score, known - latency))
            titles, base_score, latency = [], after, known
    return tuple(entries)


def _pruned_latency(standing: Standing, combination: Combination) -> float | None:
    """Return the latency of the combination without its scheme, if that was a trial."""
    for other in standing.combinations:
        if (other.ratio, other.leaf) == (combination.ratio, UNCOMPRESSED.leaf):
            result = standing.results.get((other.number, "proxy"))
            return result.latency_ms if result is not None else None
    return None


def _seconds(results: Results, number: int) -> float:
    return sum(result.seconds for (trial, _), result in results.items() if trial == number)

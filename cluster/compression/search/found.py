"""Result of a search: the models within the budget, and the record of all trials.

Found.feasible → Trial.build → Work, its records
Found.record   → SearchRecord: every trial, the Pareto front, what each step contributed
"""

from __future__ import annotations

import copy
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
    """The model that the search began with."""

    def build(self, job: Job) -> tuple[Work, tuple[StepRecord, ...]]:
        """Rebuild the trial's model; return it and the records of its steps.

        Weights come from the trial's file; only the quantize step runs again, in this process.
        CompressionError if the file is missing.
        """
        fresh = Work.of(copy.deepcopy(self.base.module), self.base.inputs)
        made = trial.read(self.file, fresh)
        quantize = [step for step in self.steps if isinstance(step, Quantize)]
        if not quantize:
            return made.work, made.records
        torch.manual_seed(job.seed)
        trial_job = job.for_step(job.checkpoints / f"trial-{self.number}")
        work, records = steps.run(made.work, quantize, trial_job)
        return work, (*made.records, *records)


@dataclass(frozen=True)
class Found:
    """Result of a search."""

    search: Search
    standing: Standing
    folder: Path
    base: Work
    resumed: int
    seconds: float

    @cached_property
    def feasible(self) -> tuple[Trial, ...]:
        """The models within the budget, the best by the objective first.

        The uncompressed one is always among them: last if nothing shows that it is within.
        """
        standing = self.standing
        found = [standing.final(each) for each in (UNCOMPRESSED, *standing.combinations)]
        within = [each for each in found if each is not None and standing.goal.feasible(each)]
        within.sort(key=standing.order)
        uncompressed = standing.results[UNCOMPRESSED.number, "full"]
        if uncompressed not in within:
            within.append(uncompressed)
        return tuple(self._trial(each) for each in within)

    def record(self, chosen: int, artifacts: Mapping[int, str]) -> SearchRecord:
        """Everything that was tried.

        ``chosen``: number of the best trial that can become an artifact. ``artifacts``: the names
        of trials that were published, by their numbers.
        """
        records = [
            self._record(each, artifacts.get(each.number))
            for each in (UNCOMPRESSED, *self.standing.combinations)
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
    def _front(self) -> set[int]:
        """Numbers of the finished models that no other beats in score, latency and bytes."""
        found = [self.standing.final(each) for each in (UNCOMPRESSED, *self.standing.combinations)]
        finished = [each for each in found if each and each.stage != "proxy" and not each.failed]
        points = [
            (
                each.score.value if each.score else math.nan,
                math.nan if each.latency_ms is None else each.latency_ms,
                math.nan if each.size_bytes is None else float(each.size_bytes),
            )
            for each in finished
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
        shown = TrialRecord(
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
            return shown
        stage = "proxy" if result.stage == "proxy" or not combination.pruned else "recovered"
        return shown.model_copy(
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
    each other. A point with a value that is not finite was not measured, and is never on the
    front.
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
    """What each step of a trial added to those before it: title, change of the score, change of
    the latency in ms.

    A latency is known after a step if a trial ended there; steps up to the next one whose latency
    is known stand together. Recovery leaves the latency as it is.
    """
    combination = next((each for each in standing.combinations if each.number == number), None)
    final = standing.final(combination) if combination else None
    before = standing.results[UNCOMPRESSED.number, "full"]
    if combination is None or final is None or not final.steps or before.score is None:
        return ()
    score, latency = before.score.value, before.latency_ms or 0.0
    pruned = _pruned_latency(standing, combination)
    found, titles, base_score = [], list[str](), score
    for step, after in zip(final.steps, final.step_scores, strict=True):
        titles.append(steps.title(step))
        known = final.latency_ms if step is final.steps[-1] else pruned
        if known is not None:
            found.append((" + ".join(titles), after - base_score, known - latency))
            titles, base_score, latency = [], after, known
    return tuple(found)


def _pruned_latency(standing: Standing, combination: Combination) -> float | None:
    """Latency of the combination without its scheme, if that was a trial."""
    for other in standing.combinations:
        if (other.ratio, other.leaf) == (combination.ratio, UNCOMPRESSED.leaf):
            result = standing.results.get((other.number, "proxy"))
            return result.latency_ms if result is not None else None
    return None


def _seconds(results: Results, number: int) -> float:
    return sum(each.seconds for (own, _), each in results.items() if own == number)

"""What the compression benchmark measured: builds, and the goals they are held against."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from benchmarks.goal import Goal
from cluster.compression.record import BuildRecord


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Built(_Record):
    """One artifact as its evaluation measured it, beside the eager float32 model it began as.

    Latencies are medians in ms by batch size, of the program that won on the target.
    """

    title: str
    artifact: str
    metric: str
    score: float
    low: float
    high: float
    samples: int
    drop: float
    drop_upper: float
    program: str
    latency_ms: dict[int, float]
    eager_ms: dict[int, float]
    size_bytes: int
    float_bytes: int
    macs: int | None
    """Multiply-accumulates of one item; None where no step counted them."""
    eager_macs: int | None
    random_weights: bool
    seconds: dict[str, float]
    """Phase of the job → seconds; a phase that was done before takes none."""

    def speedup(self, batch: int) -> float:
        """Times faster than the eager float32 model at that batch size."""
        return self.eager_ms[batch] / self.latency_ms[batch]

    @staticmethod
    def of(title: str, artifact: str, record: BuildRecord) -> Built:
        """What the artifact's report says of its fastest program."""
        won = record.programs[f"{record.target}/{record.fastest}"]
        steps = record.steps
        return Built(
            title=title,
            artifact=artifact,
            metric=record.metric,
            score=won.accuracy,
            low=won.accuracy_low,
            high=won.accuracy_high,
            samples=won.samples,
            drop=won.drop.mean if won.drop else 0.0,
            drop_upper=won.drop.upper if won.drop else 0.0,
            program=record.fastest,
            latency_ms={each.batch: each.p50_ms for each in won.latency},
            eager_ms={each.batch: each.p50_ms for each in record.baseline.latency},
            size_bytes=won.size_bytes,
            float_bytes=record.baseline.size_bytes,
            macs=steps[-1].size_after.macs if steps else None,
            eager_macs=steps[0].size_before.macs if steps else None,
            random_weights=record.random_weights,
            seconds=record.seconds,
        )


class CaseResult(_Record):
    """One case: its builds in order, its goals, and when it ran."""

    key: str
    title: str
    builds: tuple[Built, ...]
    goals: tuple[Goal, ...]
    tiny: bool
    seconds: float
    date: str


class Results(_Record):
    """Everything that was measured so far, by case, on one machine."""

    machine: dict[str, Any]
    cases: dict[str, CaseResult] = {}

    @property
    def missed(self) -> list[str]:
        """Goals that were not met, in words; a tiny run has none to meet."""
        return [
            f"{case.key}: {goal.claim} is {goal.measured:.3g}{goal.unit}"
            for case in self.cases.values()
            for goal in case.goals
            if not case.tiny and not goal.met
        ]

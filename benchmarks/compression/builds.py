"""Builds of the compression benchmark: artifact → its report → Build → figures of the results."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.artifacts.builder import Builder
from benchmarks.harness.results import Figures, Reading
from cluster.artifact.artifact import REPORT
from cluster.artifact.store import open_store
from cluster.compression.record import BuildRecord
from cluster.config.recipe import Recipe

_LATENCY = re.compile(r"(program|eager) p50 ms at batch (\d+)")
_TRUE, _FALSE = "yes", "no"


@dataclass(frozen=True)
class Build:
    """One artifact as its evaluation measured it, beside the eager float32 model.

    Latencies are medians in ms by batch size, of the fastest program on the target.
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
    latency_ms: Mapping[int, float]
    eager_ms: Mapping[int, float]
    size_bytes: float
    float_bytes: float
    macs: float | None
    """Multiply-accumulates of one item; None if no step counted them."""
    eager_macs: float | None
    random_weights: bool
    seconds: Mapping[str, float]
    """Seconds by phase of the job; a phase with a stored result takes almost none."""

    def speedup(self, batch: int) -> float:
        """Return the speed relative to the eager float32 model at that batch size."""
        return self.eager_ms[batch] / self.latency_ms[batch]

    @staticmethod
    def of(title: str, artifact_id: str, record: BuildRecord) -> Build:
        """Return the build of an artifact's report, with its fastest program."""
        fastest = record.programs[f"{record.target}/{record.fastest}"]
        steps = record.steps
        return Build(
            title=title,
            artifact=artifact_id,
            metric=record.metric,
            score=fastest.accuracy,
            low=fastest.accuracy_low,
            high=fastest.accuracy_high,
            samples=fastest.samples,
            drop=fastest.drop.mean if fastest.drop else 0.0,
            drop_upper=fastest.drop.upper if fastest.drop else 0.0,
            program=record.fastest,
            latency_ms={latency.batch: latency.p50_ms for latency in fastest.latency},
            eager_ms={latency.batch: latency.p50_ms for latency in record.baseline.latency},
            size_bytes=fastest.size_bytes,
            float_bytes=record.baseline.size_bytes,
            macs=steps[-1].size_after.macs if steps else None,
            eager_macs=steps[0].size_before.macs if steps else None,
            random_weights=record.random_weights,
            seconds=record.seconds,
        )

    def reading(self) -> Reading:
        """Return the build as figures and texts of the results."""
        figures: Figures = {name: getattr(self, field) for name, field in _FIGURES.items()}
        figures |= {
            name: macs
            for name, macs in (("MACs", self.macs), ("eager MACs", self.eager_macs))
            if macs is not None
        }
        for who, by_batch in (("program", self.latency_ms), ("eager", self.eager_ms)):
            figures |= {f"{who} p50 ms at batch {n}": ms for n, ms in by_batch.items()}
        figures |= {f"{phase} s": seconds for phase, seconds in self.seconds.items()}
        texts = {
            "artifact": self.artifact,
            "metric": self.metric,
            "program": self.program,
            "random weights": _TRUE if self.random_weights else _FALSE,
        }
        return Reading(subject=self.title, figures=figures, texts=texts)

    @staticmethod
    def read(reading: Reading) -> Build:
        """Return the build of such figures and texts."""
        figures, texts = dict(reading.figures), reading.texts
        fields = {field: figures.pop(name) for name, field in _FIGURES.items()}
        macs, eager_macs = figures.pop("MACs", None), figures.pop("eager MACs", None)
        latencies: dict[str, dict[int, float]] = {"program": {}, "eager": {}}
        for name in list(figures):
            if match := _LATENCY.fullmatch(name):
                latencies[match[1]][int(match[2])] = figures.pop(name)
        return Build(
            title=reading.subject,
            artifact=texts["artifact"],
            metric=texts["metric"],
            program=texts["program"],
            random_weights=texts["random weights"] == _TRUE,
            latency_ms=latencies["program"],
            eager_ms=latencies["eager"],
            macs=macs,
            eager_macs=eager_macs,
            seconds={name.removesuffix(" s"): value for name, value in figures.items()},
            samples=round(fields.pop("samples")),
            **fields,
        )


_FIGURES = {
    "score": "score",
    "score, low": "low",
    "score, high": "high",
    "samples": "samples",
    "drop": "drop",
    "drop, upper bound": "drop_upper",
    "bytes": "size_bytes",
    "float bytes": "float_bytes",
}
"""Field of every figure that each build has."""


class ReportingBuilder(Builder):
    """Builder that returns the measurements of an artifact's report."""

    def measure(self, title: str, recipe: Recipe) -> Build:
        """Build the recipe and read the report of its artifact; BenchmarkError if it fails."""
        artifact = open_store(self.store).open(self.build(title, recipe))
        record = BuildRecord.model_validate_json(artifact.file(REPORT).read_bytes())
        return Build.of(title, str(artifact.id), record)

"""The steps as data: the cost and gain of each, in order, and its findings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.compression.figures import amount, duration, percent, points, score, size, times
from cluster.compression.record import BuildRecord, ModelSize, StepRecord
from cluster.compression.report.findings import Findings, findings, text
from cluster.compression.report.parts import Facts, Section, Table


@dataclass(frozen=True)
class StepView:
    """One step's findings and settings."""

    title: str
    findings: Findings
    settings: Facts


@dataclass(frozen=True)
class Steps:
    """All steps: a row for each, then their details."""

    table: Table
    details: Sequence[StepView]


def steps(record: BuildRecord) -> Section | None:
    """Return the steps, or None if the build ran none."""
    if not record.steps:
        return None
    numbered = [*enumerate(record.steps, 1)]
    rows = [_row(number, step, record.metric) for number, step in numbered]
    header = [
        "step",
        record.metric,
        "change, points",
        "MACs",
        "fewer",
        "parameters",
        "weights",
        "smaller",
        "took",
    ]
    view = Steps(
        table=Table(
            "Each step after those before it", header, [_start(record.steps[0], record), *rows]
        ),
        details=[
            StepView(
                title=f"{number}. {step.title}",
                findings=findings(step.details, f"step-{number}"),
                settings=[
                    (name.replace("_", " "), text(value)) for name, value in step.settings.items()
                ],
            )
            for number, step in numbered
        ],
    )
    return Section("steps", "Steps: cost and gain", "Steps", view)


def _start(first: StepRecord, record: BuildRecord) -> tuple[str, ...]:
    """Return the row of the model before the first step."""
    model = first.size_before
    return (
        "before the steps",
        score(record.metric, first.before.value),
        "",
        amount(model.macs),
        "",
        _parameters(model),
        size(model.weight_bytes),
        "",
        "",
    )


def _row(number: int, step: StepRecord, metric: str) -> tuple[str, ...]:
    before, after = step.size_before, step.size_after
    return (
        f"{number}. {step.title}",
        score(metric, step.after.value),
        points(step.after.value - step.before.value),
        amount(after.macs),
        _ratio(before.macs, after.macs),
        _parameters(after),
        size(after.weight_bytes),
        _ratio(before.weight_bytes, after.weight_bytes),
        duration(step.seconds),
    )


def _parameters(model: ModelSize) -> str:
    zeros = model.parameters - model.nonzero
    if zeros * 100 < model.parameters:  # a few weights are zero in any model
        return amount(model.parameters)
    return f"{amount(model.parameters)}, {percent(zeros / model.parameters)} zero"


def _ratio(before: int, after: int) -> str:
    return times(before / after) if after and before != after else "–"

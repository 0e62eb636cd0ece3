"""Packaging of one compressed model: programs → evaluation → gate → artifact or refusal.

build    CompressedModel → Draft with weights → builder.build → programs
                         → evaluate.run, one fresh process per program → the fastest per target
                         → gate.check → layouts → AcceptedBuild | Rejection
publish  AcceptedBuild → report.json, report.html → artifact
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from safetensors.torch import load_file

from cluster.artifact.artifact import REPORT, REPORT_PAGE, Artifact
from cluster.compression import origin, self_checks
from cluster.compression.draft import Draft
from cluster.compression.evaluation import costs, evaluate, gate
from cluster.compression.evaluation.evaluate import EvaluationResult
from cluster.compression.programs import builder
from cluster.compression.record import BuildRecord, CheckRecord, SearchRecord, StepRecord
from cluster.compression.report import html
from cluster.compression.report.baseline import baseline_note
from cluster.compression.report.cautions import cautions
from cluster.compression.report.table import gate_lines, limits, table_of
from cluster.compression.sharding import layouts
from cluster.compression.work import Clock, Job, Work
from cluster.config.sources import ModelSource
from cluster.config.steps import Step, trains
from cluster.data import LabelledData
from cluster.models import batch_check
from cluster.program import node

MAX_NAMED = 20
"""Maximum number of unreadable samples that the report names."""


@dataclass(frozen=True)
class CompressedModel:
    """Model after all of its steps, with the name and key of its artifact."""

    name: str
    key: str
    work: Work
    records: tuple[StepRecord, ...]
    search: SearchRecord | None = None
    searched: tuple[Step, ...] = ()
    """Steps that a search added to the recipe's own."""


@dataclass(frozen=True)
class AcceptedBuild:
    """Build that passes the gate: all of an artifact but its reports."""

    draft: Draft
    record: BuildRecord


@dataclass(frozen=True)
class Rejection:
    """Build that breaks a limit of the gate: its reports are in the store, nothing to serve."""

    report: str
    """Location of the report in JSON."""


def build(model: CompressedModel, job: Job) -> AcceptedBuild | Rejection:
    """Compile, measure and judge the model."""
    folder = job.workspace / f"artifact-{model.name}"
    folder.mkdir()
    build = None
    try:
        build = _build(model, job, folder)
    finally:
        if not isinstance(build, AcceptedBuild):  # a search's next model may have the same name
            shutil.rmtree(folder, ignore_errors=True)
    return build


def publish(build: AcceptedBuild, job: Job, search: SearchRecord | None = None) -> Artifact:
    """Write the reports, with ``search`` in its current state, and publish the artifact."""
    folder = build.draft.folder
    reports = _reports(build.record.model_copy(update={"search": search}))
    try:
        (folder / REPORT).write_bytes(reports[".json"])
        (folder / REPORT_PAGE).write_bytes(reports[".html"])
        build.draft.write()
        artifact = job.store.publish(folder)
    finally:  # a failed publication must not keep disk space
        shutil.rmtree(folder, ignore_errors=True)
    job.out(f"artifact {artifact.id}")
    return artifact


def _build(model: CompressedModel, job: Job, folder: Path) -> AcceptedBuild | Rejection:
    clock = job.clock.fork()
    draft = Draft.begin(folder, model.work, job, model.name, model.key, model.searched)
    mates = _check_batches(model.work, job)
    with clock.phase("compile"):
        programs = builder.build(model.work, folder, job)
    draft = draft.update(programs=programs.entries, index_limits=programs.index_limits).write()
    with clock.phase("evaluate"):
        outputs = {
            entry.key: draft.record_expected(
                entry.key, builder.BUILDERS[entry.kind].source(model.work), job.probes
            )
            for entry in programs.entries
        }
        evaluation = evaluate.run(
            folder, job.recipe, job.baseline_weights, outputs, job.workspace, job.out, mates=mates
        )
    failed = {**programs.failed, **evaluation.failed}
    evaluation, checks = _judged(model, evaluation.model_copy(update={"failed": failed}), job)
    record = _record(model, evaluation, checks, clock, job)
    for caution in cautions(record):
        job.out(f"warning  {caution}")
    if not record.accepted:
        return _reject(model, record, job)
    working = builder.trim(programs.entries, evaluation.programs, evaluation.static, folder)
    working = self_checks.store(draft, working, evaluation.differences)
    draft = draft.update(
        programs=working,
        baseline=evaluation.baseline,
        other_baselines=record.other_baselines,
        measured=evaluation.programs,
        fastest=evaluation.fastest,
        quantized_operators=record.quantized_operators,
    )
    with clock.phase("cut"):
        draft = layouts.build(draft, job)
    final = {"layouts": draft.manifest.layouts, "seconds": _rounded(clock)}
    return AcceptedBuild(draft, record.model_copy(update=final))


def _reject(model: CompressedModel, record: BuildRecord, job: Job) -> Rejection:
    name = model.name
    if model.search is not None and name == job.recipe.name:  # the next trial may use this name
        name += f".trial-{model.search.chosen}"
    report = job.store.reject(name, model.key, _reports(record))
    job.out(f"rejected by the gate; the report is {report}")
    return Rejection(report)


def _rounded(clock: Clock) -> dict[str, float]:
    return {name: round(seconds, 2) for name, seconds in clock.seconds.items()}


def _reports(record: BuildRecord) -> dict[str, bytes]:
    return {
        ".json": record.model_dump_json(indent=1).encode() + b"\n",
        ".html": html.page(record).encode(),
    }


def _judged(
    model: CompressedModel, evaluation: EvaluationResult, job: Job
) -> tuple[EvaluationResult, tuple[CheckRecord, ...]]:
    """Return the programs that the gate admits, and its checks."""
    effective = job.recipe.limits_for(model.searched)
    size = job.baseline_weights.stat().st_size
    wants = any(record.kind == "quantize" for record in model.records)
    evaluation = gate.admit(effective, evaluation, float_bytes=size, wants_quantized=wants)
    checks = gate.check(effective, evaluation, float_bytes=size, wants_quantized=wants)
    recipe = job.recipe.model_dump(mode="json")
    lines = table_of(model.name, evaluation, recipe).splitlines()
    lines += [f"baseline {note}"] if (note := baseline_note(recipe)) else []
    lines += [f"limits   {limits(effective.model_dump())}", *gate_lines(checks)]
    for line in lines:
        job.out(line)
    return evaluation, checks


def _record(
    model: CompressedModel,
    evaluation: EvaluationResult,
    checks: tuple[CheckRecord, ...],
    clock: Clock,
    job: Job,
) -> BuildRecord:
    recipe, data = job.recipe, job.data
    target = recipe.programs[0].target
    kind = evaluation.fastest.get(target, "")
    return BuildRecord(
        name=model.name,
        recipe=recipe.model_dump(mode="json"),
        accepted=all(check.passed for check in checks),
        checks=checks,
        metric=recipe.evaluation.metrics[0],
        target=target,
        fastest=kind,
        baseline=evaluation.baseline,
        other_baselines=dict([*evaluation.target_baselines.items()][1:]),
        programs=evaluation.programs,
        failed_programs=evaluation.failed,
        left_out_programs=evaluation.left_out,
        differences=evaluation.differences,
        quantized_operators=evaluation.operators.get(f"{target}/{kind}", 0),
        steps=model.records,
        layers=costs.layer_sizes(load_file(job.baseline_weights), model.work.weights()),
        search=model.search,
        seconds=_rounded(clock),
        versions=origin.versions(),
        seed=recipe.seed,
        data={
            "source": recipe.data.source,
            "test_source": recipe.data.test_source,
            "fingerprint": data.fingerprint,
            "training_samples": len(data.train),
            "validation_samples": len(data.validation),
            "held_out_samples": len(data.test),
            "classes": len(data.labels),
            "largest_class_share": _largest_class_share(data),
            "unreadable_samples": len(job.unreadable) or None,
            "unreadable": [*job.unreadable][:MAX_NAMED] or None,
        },
        machine={
            "cpu": node.cpu_name(),
            "cpus": node.cpus(),
            "targets": list(node.targets()),
            "compute_threads": recipe.evaluation.compute_threads,
        },
        random_weights=_untrained(recipe.model, (*recipe.steps, *model.searched)),
        source_check=job.source_check,
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _largest_class_share(data: LabelledData) -> float | None:
    """Return the accuracy of always answering the largest class; None without classes."""
    if not data.labels or data.test.activation != "softmax":
        return None
    return float(np.bincount(data.test.labels).max()) / len(data.test)


def _untrained(model: ModelSource, steps: tuple[Step, ...]) -> bool:
    """Return whether the weights are random: no source provides them and no step trains them.

    An ``hf:`` source always provides weights. A ``python:`` factory may provide them too, which a
    recipe does not show; the report says so.
    """
    provided = model.weights is not None or model.source.startswith("hf:")
    return not provided and not any(trains(step) for step in steps)


def _check_batches(work: Work, job: Job) -> tuple[str, ...]:
    """Check again, with the final weights and real samples, that no item depends on its batch.

    Return the names of the mates beside which the programs are checked.
    """
    recipe = job.recipe
    inputs = batch_check.check(
        work.float_module,
        work.inputs,
        recipe.model.source,
        samples=[*job.probes.without_noise().inputs],
        largest=recipe.model.max_batch_size or recipe.evaluation.largest_batch,
    )
    return tuple(inputs.mates)

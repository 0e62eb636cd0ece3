"""One compressed model → its programs → evaluation → gate → artifact or refusal.

build    Work → weights.safetensors → builder.build → programs
              → evaluate.run, one fresh process per program → the fastest of each target
              → gate.check → Built | reject
publish  Built → report.json, report.html → artifact
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from cluster.artifact.artifact import MANIFEST, REPORT, REPORT_PAGE, WEIGHTS, Artifact, describe
from cluster.artifact.manifest import Manifest
from cluster.compression import origin
from cluster.compression.evaluation import costs, evaluate, gate, reference
from cluster.compression.evaluation.evaluate import Evaluated
from cluster.compression.programs import builder
from cluster.compression.record import BuildRecord, CheckRecord, SearchRecord, StepRecord
from cluster.compression.report import html
from cluster.compression.report.table import gate_lines, limits, table_of
from cluster.compression.sharding import layouts
from cluster.compression.work import StepContext, Work
from cluster.config.recipe import Recipe
from cluster.config.sources import ImageInput, ModelSource, TextInput
from cluster.config.steps import Distill, Prune, Quantize, Step, Train
from cluster.data import LabelledData, PreparedSamples
from cluster.models import LoadedModel
from cluster.program import node
from cluster.progress import Print


@dataclass
class Clock:
    """Seconds spent in each phase of the job."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - started


@dataclass(frozen=True)
class Site:
    """What all candidates of one job share."""

    recipe: Recipe
    model: LoadedModel
    data: LabelledData
    identity: str
    baseline: Path
    """The float32 weights that everything is measured against."""

    scratch: Path
    room: Path
    started: dict[str, builder.Wait]
    clock: Clock
    """What was done before the first candidate."""


@dataclass(frozen=True)
class Candidate:
    """A compressed model that may become an artifact."""

    name: str
    key: str
    work: Work
    records: tuple[StepRecord, ...]
    search: SearchRecord | None = None
    found_steps: tuple[Step, ...] = ()
    """Steps that a search added to the recipe's own."""


@dataclass(frozen=True)
class Built:
    """A candidate that the gate accepts: all of an artifact but its reports."""

    workspace: Path
    manifest: Manifest
    record: BuildRecord


def build(candidate: Candidate, site: Site, context: StepContext) -> Built | None:
    """Compile, measure and judge the candidate; None if the gate refuses it.

    A refusal leaves its reports in the store, and nothing that could be served.
    """
    workspace = site.room / f"artifact-{candidate.name}"
    workspace.mkdir()
    built = None
    try:
        built = _build(candidate, site, context, workspace)
    finally:
        if built is None:  # the next candidate of a search may have the same name
            shutil.rmtree(workspace, ignore_errors=True)
    return built


def publish(built: Built, context: StepContext, search: SearchRecord | None = None) -> Artifact:
    """Put it into the store with its reports, which show ``search`` as it stands now."""
    reports = _reports(built.record.model_copy(update={"search": search}))
    try:
        (built.workspace / REPORT).write_bytes(reports[".json"])
        (built.workspace / REPORT_PAGE).write_bytes(reports[".html"])
        _write(built.manifest, built.workspace)
        artifact = context.store.publish(built.workspace)
    finally:  # what could not be published leaves its place on the disk to others
        shutil.rmtree(built.workspace, ignore_errors=True)
    context.out(f"artifact {artifact.id}")
    return artifact


def _build(candidate: Candidate, site: Site, context: StepContext, workspace: Path) -> Built | None:
    work, out, recipe = candidate.work, context.out, site.recipe
    clock = Clock({**site.clock.seconds})
    weights = work.weights()
    save_file(weights, workspace / WEIGHTS)
    for name, content in site.model.files.items():
        (workspace / name).write_bytes(content)
    expected = site.scratch / f"expected-{candidate.name}.npz"
    _record_answers(work, context.train, expected)
    with clock.phase("compile"):
        built = builder.build(work, recipe, workspace, site.started, context)
    manifest = _manifest(candidate, site).model_copy(update={"programs": built.entries})
    _write(manifest, workspace)
    with clock.phase("evaluate"):
        found = evaluate.run(workspace, recipe, site.baseline, expected, site.scratch, out)
    found = found.model_copy(update={"failed": {**built.failed, **found.failed}})
    found, checks = _judged(candidate, site, found, out)
    kept = builder.trim(manifest.programs, found.programs, found.static, workspace)
    manifest = manifest.model_copy(update={"programs": kept})
    record = _build_record(candidate, site, found, checks, weights, clock)
    if not record.accepted:
        name = candidate.name
        if candidate.search is not None and name == recipe.name:  # the next trial may take it
            name += f".trial-{candidate.search.chosen}"
        where = context.store.reject(name, candidate.key, _reports(record))
        out(f"rejected by the gate; the report is {where}")
        return None
    measured: dict[str, object] = {
        "baseline": found.baseline,
        "other_baselines": record.other_baselines,
        "measured": found.programs,
        "fastest": found.fastest,
        "quantized_operators": record.quantized_operators,
    }
    manifest = manifest.model_copy(update=measured)
    with clock.phase("cut"):
        manifest = layouts.build(
            layouts.Shop(
                work=work,
                recipe=recipe,
                manifest=manifest,
                workspace=workspace,
                expected=expected,
                scratch=site.scratch,
                started=site.started,
                context=context,
                write=lambda manifest: _write(manifest, workspace),
            )
        )
    seconds = {name: round(taken, 2) for name, taken in clock.seconds.items()}
    record = record.model_copy(update={"layouts": manifest.layouts, "seconds": seconds})
    return Built(workspace, manifest, record)


def _reports(record: BuildRecord) -> dict[str, bytes]:
    return {
        ".json": record.model_dump_json(indent=1).encode() + b"\n",
        ".html": html.page(record).encode(),
    }


def _manifest(candidate: Candidate, site: Site) -> Manifest:
    recipe, model = site.recipe, site.model
    gate = recipe.limits_for(candidate.found_steps).model_dump(mode="json")
    shown = {**recipe.model_dump(mode="json"), "gate": gate}
    if candidate.search is not None:  # the artifact says what it is, not how it was looked for
        found = [step.model_dump(mode="json") for step in candidate.found_steps]
        shown = {**shown, "steps": [*shown["steps"], *found], "search": None}
    return Manifest(
        name=candidate.name,
        recipe=shown,
        recipe_key=candidate.key,
        inputs=model.inputs,
        outputs=model.outputs,
        image=model.preprocess if isinstance(model.preprocess, ImageInput) else None,
        text=model.preprocess if isinstance(model.preprocess, TextInput) else None,
        labels=model.labels,
        files={},
        programs=(),
        quantized_operators=candidate.work.quantized_operators,
        metric=recipe.evaluation.metrics[0],
    )


def _judged(
    candidate: Candidate, site: Site, found: Evaluated, out: Print
) -> tuple[Evaluated, tuple[CheckRecord, ...]]:
    """What the gate leaves of the programs, and its checks of them."""
    limit = site.recipe.limits_for(candidate.found_steps)
    size = site.baseline.stat().st_size
    wants = any(record.kind == "quantize" for record in candidate.records)
    found = gate.admitted(limit, found, float_bytes=size, wants_quantized=wants)
    checks = gate.check(limit, found, float_bytes=size, wants_quantized=wants)
    table = table_of(candidate.name, found).splitlines()
    for line in [*table, f"limits   {limits(limit.model_dump())}", *gate_lines(checks)]:
        out(line)
    return found, checks


def _build_record(
    candidate: Candidate, site: Site, found: Evaluated, checks: tuple[CheckRecord, ...],
    weights: dict[str, torch.Tensor], clock: Clock,
) -> BuildRecord:  # fmt: skip
    recipe, data = site.recipe, site.data
    target = recipe.programs[0].target
    kind = found.fastest.get(target, "")
    return BuildRecord(
        name=candidate.name,
        recipe=recipe.model_dump(mode="json"),
        accepted=all(check.passed for check in checks),
        checks=checks,
        metric=recipe.evaluation.metrics[0],
        target=target,
        fastest=kind,
        baseline=found.baseline,
        other_baselines=dict([*found.target_baselines.items()][1:]),
        programs=found.programs,
        failed_programs=found.failed,
        left_out_programs=found.left_out,
        quantized_operators=found.operators.get(f"{target}/{kind}", 0),
        steps=candidate.records,
        layers=costs.layer_sizes(load_file(site.baseline), weights),
        search=candidate.search,
        seconds={name: round(taken, 2) for name, taken in clock.seconds.items()},
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
        },
        machine={
            "cpu": node.cpu_name(),
            "cpus": node.cpus(),
            "targets": list(node.targets()),
            "compute_threads": recipe.evaluation.compute_threads,
        },
        random_weights=_untrained(recipe.model, (*recipe.steps, *candidate.found_steps)),
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _untrained(model: ModelSource, steps: tuple[Step, ...]) -> bool:
    """Whether the weights are those that the model was built with, and no source gave them.

    An ``hf:`` source always brings weights. A ``python:`` factory may fill in its own; whether it
    does, a recipe cannot tell, and the report says so.
    """
    brought = model.weights is not None or model.source.startswith("hf:")
    return not brought and not any(_trains(step) for step in steps)


def _trains(step: Step) -> bool:
    match step:
        case Train() | Distill():
            return True
        case Prune():
            return step.recovery is not None
        case Quantize():
            return step.training is not None
        case _:
            return False


def _record_answers(work: Work, samples: PreparedSamples, file: Path) -> None:
    """Keep what the model answers now, for the compiled programs to be compared with."""
    inputs, _ = samples.batch(range(min(reference.SAMPLES, len(samples))))
    with torch.inference_mode():
        answers = work.module(*map(torch.from_numpy, inputs)).numpy()
    reference.record(answers, inputs, file)


def _write(manifest: Manifest, workspace: Path) -> None:
    """Write the manifest with the hash of every file that lies in the workspace."""
    files = {
        str(path.relative_to(workspace)): describe(path)
        for path in sorted(workspace.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
    manifest = manifest.model_copy(update={"files": files})
    (workspace / MANIFEST).write_bytes(manifest.to_json())

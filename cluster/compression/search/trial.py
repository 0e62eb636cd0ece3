"""One stage of one trial, in any process.

    TrialTask → data, model and weights from files → float steps → weights file ┐
                                                   → quantize step → score, drop │→ TrialResult
                                                   → program → latency, bytes ───┘

A task has only file names and settings, so a process that dies can be started again. The weights
after each float step are stored beside the journal, under a name that follows from the steps. A
later stage, another scheme or a new process continues from the longest stored sequence.
"""

from __future__ import annotations

import json
import os
import shutil
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from cluster.artifact.store import ArtifactStore
from cluster.compression import activations, record, steps
from cluster.compression.evaluation import metrics
from cluster.compression.evaluation.validation import Validation
from cluster.compression.record import StepRecord
from cluster.compression.search import latency
from cluster.compression.search.journal import Stage, TrialResult
from cluster.compression.search.latency import Reference
from cluster.compression.work import Job, Work
from cluster.config.recipe import Recipe
from cluster.config.steps import Quantize, ReplaceActivation, Step
from cluster.errors import CompressionError, HeadraceError
from cluster.models import copy_of, load_model, rebuild

BASE = "base.safetensors"
"""File of the search's initial model."""

BASELINE = "baseline.safetensors"
"""File of the model that every score is compared with."""

PARTIAL = ".partial"
"""Suffix of incomplete files, as a killed process leaves them."""

TRANSIENT = (OSError, SafetensorError, MemoryError, torch.OutOfMemoryError)
"""Errors of a full disk or memory; safetensors reports a full disk by its own error."""

_SCORES = "scores"


@dataclass(frozen=True)
class TrialTask:
    """Task of one process; every field can be pickled."""

    number: int
    stage: Stage
    steps: tuple[Step, ...]
    """Steps of the combination: float steps, then optionally a quantize step."""

    recipe: Recipe
    store: ArtifactStore
    """Store of a distillation's teacher."""

    folder: Path
    """Folder of the search, with :data:`BASE` and :data:`BASELINE`; every process sees it."""

    key: str
    """Key of the search: a process does not reuse data of another search."""

    batch: int
    timed: bool
    """Whether the program is compiled and measured."""

    reference_ms: float | None
    """Latency of the uncompressed model; None before its measurement."""

    not_after: float
    """Latest start of the trial, in seconds since 1970."""


def measure(task: TrialTask) -> TrialResult | None:
    """Build the model and measure it; return None after the latest start.

    A combination that cannot be built or compiled is a result, too: ``failed`` has the reason, and
    ``passing`` is True if memory or a file was at fault.
    """
    if time.time() > task.not_after:
        return None
    started = time.monotonic()
    blank = TrialResult(number=task.number, stage=task.stage, steps=task.steps)
    try:
        result = _measure(task, blank)
    except HeadraceError as error:
        result = blank.model_copy(update={"failed": str(error), "passing": _transient(error)})
    # Third-party code (exporters, compilers, pruners) can raise anything. The report names the
    # combination, and the search continues with the others.
    except Exception as error:  # noqa: BLE001
        reason = f"{type(error).__name__}: {error}"
        result = blank.model_copy(update={"failed": reason, "passing": _transient(error)})
    return result.model_copy(update={"seconds": time.monotonic() - started})


def _transient(error: BaseException | None) -> bool:
    """Return whether the error, or a cause of it, is the machine's and not the trial's."""
    while error is not None:
        # PyTorch has an error class for a GPU's memory, but not for the CPU's.
        if isinstance(error, TRANSIENT) or "can't allocate memory" in str(error):
            return True
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return False


def _measure(task: TrialTask, blank: TrialResult) -> TrialResult:
    job, validation = _job(
        _Origin(task.recipe.model_dump_json(), task.folder, task.key, task.store)
    )
    model = _float_work(task, job, validation)
    work, details = model.work, dict[str, float]()
    quantize = [step for step in task.steps if isinstance(step, Quantize)]
    if quantize:
        torch.manual_seed(task.recipe.seed)
        folder = task.folder / "steps" / f"{task.number}-{task.stage}"
        work, records = steps.run(work, quantize, job.for_step(folder))
        shutil.rmtree(folder, ignore_errors=True)
        details = records[-1].details.get("sensitivity", {})
    scores = validation.scores(work.module)
    score = metrics.mean_score(scores)
    confidence = task.recipe.gate.confidence
    update = {
        "weights": model.file.name,
        "score": score,
        "drop": metrics.drop(validation.baseline_scores, scores, confidence),
        "step_scores": (*model.scores, *([score.value] * len(quantize))),
        "sensitivity": details,
    }
    if task.timed:
        timed = _timed(task, work, job)
        update |= {"latency_ms": timed.latency_ms, "size_bytes": timed.size_bytes}
    return blank.model_copy(update=update)


def _timed(task: TrialTask, work: Work, job: Job) -> latency.ProgramTiming:
    reference = None
    uncompressed = task.folder / "program-0"
    if task.number and task.reference_ms is not None and uncompressed.is_dir():
        reference = Reference(uncompressed, task.reference_ms)
    folder = task.folder / f"program-{task.number}"
    try:
        return latency.measure(work, task.steps, folder, task.batch, reference, job)
    finally:
        if task.number:  # the uncompressed model's program is the reference for all others
            shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class FloatModel:
    """Float32 model after some steps, stored in a file."""

    work: Work
    file: Path
    records: tuple[StepRecord, ...]
    scores: tuple[float, ...]
    """Score after each step."""


def read(file: Path, fresh: Work) -> FloatModel:
    """Load the model that :func:`measure` stored in ``file`` into the module of ``fresh``.

    ``fresh`` has the same architecture, with the sizes before the search's steps. CompressionError
    if the file cannot be read.
    """
    try:
        tensors = load_file(file)
        with safe_open(file, "pt") as stream:
            metadata = stream.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise CompressionError(
            f"{file}: the weights of a trial cannot be read: {error}; run the job again"
        ) from error
    rebuild.fit(fresh.module, tensors)
    records = record.steps_in(metadata)
    scores = json.loads(metadata.get(_SCORES, "[]"))
    return FloatModel(Work.of(fresh.module.eval(), fresh.inputs), file, records, tuple(scores))


def _float_work(task: TrialTask, job: Job, validation: Validation) -> FloatModel:
    float_steps = tuple(step for step in task.steps if not isinstance(step, Quantize))
    done = len(float_steps)
    while done and not _file(task.folder, float_steps[:done]).is_file():
        done -= 1
    model = read(_file(task.folder, float_steps[:done]), _fresh(job))
    for count in range(done + 1, len(float_steps) + 1):
        model = _after(model, float_steps[:count], job, validation)
    return model


def _fresh(job: Job) -> Work:
    """Return the model as loaded, with the activations of the recipe's steps."""
    work = Work.of(copy_of(job.model.module), job.model.inputs)
    for step in job.recipe.steps:
        if isinstance(step, ReplaceActivation):
            work = activations.replace(work, step, job)
    return work


def _after(
    model: FloatModel, through: tuple[Step, ...], job: Job, validation: Validation
) -> FloatModel:
    """Return the model after the last step of ``through``, and write its file."""
    file = _file(job.workspace, through)
    torch.manual_seed(job.seed)  # the result must not depend on earlier trials of this process
    folder = job.checkpoints / "steps" / file.stem
    work, records = steps.run(model.work, through[-1:], job.for_step(folder))
    score = validation.score(work.module).value
    after = FloatModel(work, file, (*model.records, *records), (*model.scores, score))
    _write(after)
    shutil.rmtree(folder, ignore_errors=True)
    return after


def _write(model: FloatModel) -> None:
    """Write the model's file atomically, with its records."""
    # Another process may write the same model: the last file stays; the content is equal.
    new = model.file.with_suffix(f".{uuid.uuid4().hex}{PARTIAL}")
    metadata = record.metadata_of(model.records) | {_SCORES: json.dumps(model.scores)}
    save(model.work, new, metadata)
    new.replace(model.file)


def save(work: Work, file: Path, metadata: dict[str, str] | None = None) -> None:
    """Write the weights to disk; CompressionError if that fails."""
    try:
        save_file(work.weights(), file, metadata)
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
    except (OSError, SafetensorError) as error:
        file.unlink(missing_ok=True)
        raise CompressionError(f"{file}: the weights cannot be written: {error}") from error


def _file(folder: Path, through: Sequence[Step]) -> Path:
    if not through:
        return folder / BASE
    content = json.dumps([step.model_dump(mode="json") for step in through], sort_keys=True)
    return folder / f"{sha256(content.encode()).hexdigest()[:16]}.safetensors"


@dataclass(frozen=True)
class _Origin:
    """Identity of a trial's job. Equal folders have equal stores."""

    recipe_json: str
    folder: Path
    key: str
    store: ArtifactStore = field(compare=False)


@lru_cache(maxsize=1)  # a process that runs several trials decodes the data once
def _job(origin: _Origin) -> tuple[Job, Validation]:
    """Load a job like the search's in this process, with the search's baseline."""
    recipe, folder = Recipe.model_validate_json(origin.recipe_json), origin.folder
    job = Job.load(
        recipe, origin.store, workspace=folder, checkpoints=folder, out=_silent, checked=True
    )
    baseline = load_model(recipe.baseline_source, job.data.labels, checked=True)
    rebuild.fit(baseline.module, load_file(folder / BASELINE))
    job = job.with_baseline(baseline.module)
    metric = recipe.evaluation.metrics[0]
    return job, Validation(metric, job.validation, job.baseline, one_by_one=recipe.one_by_one)


def _silent(line: str) -> None:
    """Discard the lines of a step: the search prints one line for each trial."""

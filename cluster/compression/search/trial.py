"""One stage of one trial, in whatever process it is started in.

    TrialTask → data, model and weights from files → float steps → weights file ┐
                                                   → quantize step → score, drop │→ TrialResult
                                                   → program → latency, bytes ───┘

A process is told file names and settings only, so it may die and be started again. The weights
after each float step are kept under a name that follows from the steps, beside the journal: a
later stage, another scheme or a new process goes on from the longest part that is there.
"""

from __future__ import annotations

import copy
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
from cluster.models import load_model, rebuild

BASE = "base.safetensors"
"""The model that the search begins with."""

BASELINE = "baseline.safetensors"
"""The model that every score is compared with."""

PARTIAL = ".partial"
"""Ends the names of files that are not whole: a process killed on the way leaves them."""

PASSING = (OSError, SafetensorError, MemoryError, torch.OutOfMemoryError)
"""What a full disk or memory raises; safetensors tells of a full disk by an error of its own."""

_SCORES = "scores"


@dataclass(frozen=True)
class TrialTask:
    """What a process is told; everything in it can be pickled."""

    number: int
    stage: Stage
    steps: tuple[Step, ...]
    """The combination: float steps, then perhaps a quantize step."""

    recipe: Recipe
    store: ArtifactStore
    """Where a distillation's teacher may lie."""

    folder: Path
    """The search's, with :data:`BASE` and :data:`BASELINE`; seen by every process."""

    key: str
    """Of the search: what was loaded for another one is not used."""

    batch: int
    timed: bool
    """Whether the program is compiled and measured."""

    reference_ms: float | None
    """Latency of the uncompressed model; None while it is not measured."""

    not_after: float
    """Time, in seconds since 1970, after which the trial does not start any more."""


def measure(task: TrialTask) -> TrialResult | None:
    """Make the model and measure it; None if it is too late to start.

    A combination that cannot be made, or not be compiled, is a result too: ``failed`` says why,
    and ``passing`` whether it was for want of memory or by a file that could not be used.
    """
    if time.time() > task.not_after:
        return None
    started = time.monotonic()
    nothing = TrialResult(number=task.number, stage=task.stage, steps=task.steps)
    try:
        found = _measure(task, nothing)
    except HeadraceError as error:
        found = nothing.model_copy(update={"failed": str(error), "passing": _passing(error)})
    # One combination in many, made of foreign code (exporters, compilers, pruners) that raises
    # what it likes: the report names it, and the search goes on with the others.
    except Exception as error:  # noqa: BLE001
        reason = f"{type(error).__name__}: {error}"
        found = nothing.model_copy(update={"failed": reason, "passing": _passing(error)})
    return found.model_copy(update={"seconds": time.monotonic() - started})


def _passing(error: BaseException | None) -> bool:
    """Whether the error, or one that led to it, tells of the machine and not of the trial."""
    while error is not None:
        # PyTorch has a class of its own for a GPU's memory, and none for the CPU's.
        if isinstance(error, PASSING) or "can't allocate memory" in str(error):
            return True
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return False


def _measure(task: TrialTask, nothing: TrialResult) -> TrialResult:
    job, validation = _job(
        _Origin(task.recipe.model_dump_json(), task.folder, task.key, task.store)
    )
    made = _float_work(task, job, validation)
    work, details = made.work, dict[str, float]()
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
        "weights": made.file.name,
        "score": score,
        "drop": metrics.drop(validation.baseline_scores, scores, confidence),
        "step_scores": (*made.scores, *([score.value] * len(quantize))),
        "sensitivity": details,
    }
    if task.timed:
        timed = _timed(task, work, job)
        update |= {"latency_ms": timed.latency_ms, "size_bytes": timed.size_bytes}
    return nothing.model_copy(update=update)


def _timed(task: TrialTask, work: Work, job: Job) -> latency.Timed:
    reference = None
    kept = task.folder / "program-0"
    if task.number and task.reference_ms is not None and kept.is_dir():
        reference = Reference(kept, task.reference_ms)
    folder = task.folder / f"program-{task.number}"
    try:
        return latency.measure(work, task.steps, folder, task.batch, reference, job)
    finally:
        if task.number:  # the uncompressed model's is the reference for all others
            shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class Made:
    """A float model that steps have made, in its file."""

    work: Work
    file: Path
    records: tuple[StepRecord, ...]
    scores: tuple[float, ...]
    """After each step."""


def read(file: Path, fresh: Work) -> Made:
    """What :func:`measure` left in ``file``, in the module of ``fresh``: the same architecture,
    of the sizes before the search's steps.

    CompressionError if the file is gone.
    """
    try:
        tensors = load_file(file)
        with safe_open(file, "pt") as opened:
            metadata = opened.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise CompressionError(
            f"{file}, which a trial of the search left, cannot be read: {error}; run the job again"
        ) from error
    rebuild.fit(fresh.module, tensors)
    records = record.steps_in(metadata)
    scores = json.loads(metadata.get(_SCORES, "[]"))
    return Made(Work.of(fresh.module.eval(), fresh.inputs), file, records, tuple(scores))


def _float_work(task: TrialTask, job: Job, validation: Validation) -> Made:
    wanted = tuple(step for step in task.steps if not isinstance(step, Quantize))
    done = len(wanted)
    while done and not _file(task.folder, wanted[:done]).is_file():
        done -= 1
    made = read(_file(task.folder, wanted[:done]), _fresh(job))
    for count in range(done + 1, len(wanted) + 1):
        made = _after(made, wanted[:count], job, validation)
    return made


def _fresh(job: Job) -> Work:
    """Return the model as built, with the activations of the recipe's steps."""
    work = Work.of(copy.deepcopy(job.model.module), job.model.inputs)
    for step in job.recipe.steps:
        if isinstance(step, ReplaceActivation):
            work = activations.replace(work, step, job)
    return work


def _after(made: Made, through: tuple[Step, ...], job: Job, validation: Validation) -> Made:
    """Return the model after the last step of ``through``, and write its file."""
    file = _file(job.workspace, through)
    torch.manual_seed(job.seed)  # whatever this process did before
    folder = job.checkpoints / "steps" / file.stem
    work, records = steps.run(made.work, through[-1:], job.for_step(folder))
    score = validation.score(work.module).value
    after = Made(work, file, (*made.records, *records), (*made.scores, score))
    _write(after)
    shutil.rmtree(folder, ignore_errors=True)
    return after


def _write(made: Made) -> None:
    """Put the file in place whole, with what led to it."""
    # Another process may be making the same: then the last one's file, of equal content, stays.
    new = made.file.with_suffix(f".{uuid.uuid4().hex}{PARTIAL}")
    metadata = record.metadata_of(made.records) | {_SCORES: json.dumps(made.scores)}
    save(made.work, new, metadata)
    new.replace(made.file)


def save(work: Work, file: Path, metadata: dict[str, str] | None = None) -> None:
    """Write the weights so that they are on disk; CompressionError if they cannot be."""
    try:
        save_file(work.weights(), file, metadata)
        with file.open("rb") as written:
            os.fsync(written.fileno())
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
    """Everything that decides the job of a trial. The store is the same for equal folders."""

    recipe_json: str
    folder: Path
    key: str
    store: ArtifactStore = field(compare=False)


@lru_cache(maxsize=1)  # a process that runs several trials decodes the data once
def _job(origin: _Origin) -> tuple[Job, Validation]:
    """Load a job as the search's own, in this process, with the search's baseline."""
    recipe, folder = Recipe.model_validate_json(origin.recipe_json), origin.folder
    job = Job.load(recipe, origin.store, workspace=folder, checkpoints=folder, out=_silent)
    baseline = load_model(recipe.baseline_source, job.data.labels)
    rebuild.fit(baseline.module, load_file(folder / BASELINE))
    job = job.with_baseline(baseline.module)
    return job, Validation(recipe.evaluation.metrics[0], job.validation, job.baseline)


def _silent(line: str) -> None:
    """Discard the lines of a step: the search prints one line for each trial."""

"""Running a recipe's steps, one table entry per kind of step.

    source weights → train … train → baseline → other float steps → quantize → compressed model

The training steps that a recipe begins with make the baseline: compression is measured
against the trained model, so a fine-tune cannot pass for a gain. Their result, and that of the
float steps after them as a whole, are kept in the store under a key of everything that led to
them: recipes that begin with the same training train once, those that differ in their quantize
step alone do all before it once, and a job that was killed later does not do it again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from cluster.compression import activations, record
from cluster.compression.evaluation import costs
from cluster.compression.evaluation.validation import Validation
from cluster.compression.pruning.prune import prune
from cluster.compression.quantization.quantize import quantize
from cluster.compression.record import ModelSize, StepRecord
from cluster.compression.training.distill import distill
from cluster.compression.training.train import train
from cluster.compression.work import Job, Work
from cluster.config.steps import Distill, Prune, Quantize, ReplaceActivation, Step, Train
from cluster.models import rebuild

STEPS: dict[type, Callable[[Work, Any, Job], Work]] = {
    Train: train,
    Distill: distill,
    Prune: prune,
    Quantize: quantize,
    ReplaceActivation: activations.replace,
}

VALIDATION_SAMPLES = 512
"""Samples that each step's score is taken on, at most: enough to see a step go wrong."""


def leading_training(steps: Sequence[Step]) -> int:
    """How many steps at the beginning are training steps."""
    count = 0
    while count < len(steps) and isinstance(steps[count], Train):
        count += 1
    return count


def float_steps(steps: Sequence[Step]) -> int:
    """How many steps at the beginning leave float32 weights: those before the first quantize."""
    count = 0
    while count < len(steps) and not isinstance(steps[count], Quantize):
        count += 1
    return count


def run(work: Work, steps: Sequence[Step], job: Job) -> tuple[Work, tuple[StepRecord, ...]]:
    """Apply ``steps`` in order, and measure what each of them cost and gained."""
    if not steps:
        return work, ()
    metric = job.recipe.evaluation.metrics[0]
    validation = Validation(metric, job.validation, job.baseline, VALIDATION_SAMPLES)
    records: list[StepRecord] = []
    score, size = validation.score(work.module), _size(work)
    for position, step in enumerate(steps):
        folder = job.checkpoints / f"{position}-{step.kind}"
        folder.mkdir(parents=True, exist_ok=True)
        step_job = job.for_step(folder)
        started = time.monotonic()
        work = STEPS[type(step)](work, step, step_job)
        seconds = time.monotonic() - started
        before, size_before = score, size
        score, size = validation.score(work.module), _size(work)
        job.out(
            f"step     {title(step)}: score {before.value:.4f} → {score.value:.4f}, "
            f"{size.weight_bytes / 1e6:.2f} MB, {size.macs / 1e6:.1f} M multiply-accumulates"
        )
        records.append(
            StepRecord(
                kind=step.kind,
                title=title(step),
                settings=step.model_dump(mode="json"),
                seconds=seconds,
                before=before,
                after=score,
                size_before=size_before,
                size_after=size,
                details=step_job.details,
            )
        )
    return work, tuple(records)


def title(step: Step) -> str:
    """The step in a few words."""
    if isinstance(step, Prune):
        how_much = (
            f" {step.ratio:g}" if step.ratio else f" {step.speedup:g}×" if step.speedup else ""
        )
        return f"prune {step.method}{how_much}"
    if isinstance(step, Quantize):
        return f"quantize {step.scheme}" + (" (aware)" if step.training else "")
    if isinstance(step, ReplaceActivation):
        return f"{step.old} → {step.new}"
    return step.kind


def _size(work: Work) -> ModelSize:
    # A graph of integers cannot be counted; its float module computes as many products.
    counted = work.precision.float_module if work.precision else work.module
    return costs.size_of(counted, work.inputs, work.weights())


def made(
    work: Work, earlier: Sequence[Step], steps: Sequence[Step], job: Job
) -> tuple[Work, tuple[StepRecord, ...]]:
    """Apply the float ``steps`` after ``earlier``, or load their cached result and records."""
    if not steps:
        return work, ()
    recipe = job.recipe
    decides = [
        job.identity,
        recipe.baseline_source.model_dump(mode="json"),
        recipe.evaluation.metrics[0],
        *(step.model_dump(mode="json") for step in (*earlier, *steps)),
    ]
    key = sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()
    if (file := job.store.cached_step(key)) is not None:
        named = f"{steps[0].kind:<8} {', '.join(map(title, steps))}"
        try:
            with safe_open(file, "pt") as opened:
                records = record.steps_in(opened.metadata() or {})
            tensors = load_file(file)
        except (OSError, SafetensorError, ValueError) as error:
            job.out(f"{named}: once more, because {file} is damaged: {error}")
        else:
            job.out(f"{named}: already done for this model, data and settings")
            return filled(work, steps, tensors, job), records
    work, records = run(work, steps, job)
    file = job.workspace / "made.safetensors"
    save_file(work.weights(), file, record.metadata_of(records))
    job.store.cache_step(key, file)
    return work, records


def filled(
    work: Work, steps: Sequence[Step], tensors: Mapping[str, torch.Tensor], job: Job
) -> Work:
    """The module of ``work`` with the ``tensors`` that the float ``steps`` made of it before."""
    for step in steps:
        if isinstance(step, ReplaceActivation):  # leaves no trace in tensors
            work = activations.replace(work, step, job)
    rebuild.fit(work.module, tensors)
    return Work.of(work.module.eval(), work.inputs)

"""A recipe's steps, in order; one table entry per kind of step.

    source weights → train … train → baseline → other float steps → quantize → compressed model

The training steps at the beginning of a recipe produce the baseline. Compression is measured
against the trained model, so a fine-tune does not count as a gain. The store caches the result of
these steps, and that of the float steps after them, under a key of everything that decides it.
Recipes with the same leading training train once. Recipes that differ only in their quantize step
share all steps before it. A job that was killed later does not repeat them.
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
from cluster.models import faults, rebuild

STEPS: dict[type, Callable[[Work, Any, Job], Work]] = {
    Train: train,
    Distill: distill,
    Prune: prune,
    Quantize: quantize,
    ReplaceActivation: activations.replace,
}

_TRAINING = (
    "training calls forward in train mode, with gradients: it must return the tensor [batch, ...] "
    "alone there, too, and keep no tensor of an earlier call that has gradients"
)
_SAMPLES = (
    "the samples must be inputs that the model takes: check data.source, and model.image, "
    "model.text or model.tensor"
)
_OTHERWISE = "choose another method or other layers, or remove the step"
_ADVICE: dict[type, str] = {Train: _TRAINING, Distill: _TRAINING}
"""Config class → what to try if the model's own code fails in the step."""

VALIDATION_SAMPLES = 512
"""Maximum number of samples for each step's score: enough to see a step go wrong."""


def leading_training(steps: Sequence[Step]) -> int:
    """Return the number of training steps at the beginning."""
    count = 0
    while count < len(steps) and isinstance(steps[count], Train):
        count += 1
    return count


def float_steps(steps: Sequence[Step]) -> int:
    """Return the number of steps before the first quantize step; they leave float32 weights."""
    count = 0
    while count < len(steps) and not isinstance(steps[count], Quantize):
        count += 1
    return count


def run(work: Work, steps: Sequence[Step], job: Job) -> tuple[Work, tuple[StepRecord, ...]]:
    """Apply ``steps`` in order; record the cost and gain of each."""
    if not steps:
        return work, ()
    metric = job.recipe.evaluation.metrics[0]
    validation = Validation(
        metric,
        job.validation,
        job.baseline,
        VALIDATION_SAMPLES,
        one_by_one=job.recipe.one_by_one,
    )
    records: list[StepRecord] = []
    source = job.recipe.model.source
    with faults.named(f"{source} fails on the validation samples", _SAMPLES):
        score, size = validation.score(work.module), _size(work)
    for position, step in enumerate(steps):
        folder = job.checkpoints / f"{position}-{step.kind}"
        folder.mkdir(parents=True, exist_ok=True)
        step_job = job.for_step(folder)
        started = time.monotonic()
        advice = _ADVICE.get(type(step), _OTHERWISE)
        with faults.named(f"{source} fails in steps[{position}] ({title(step)})", advice):
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
    """Return the step in a few words."""
    if isinstance(step, Prune):
        amount = f" {step.ratio:g}" if step.ratio else f" {step.speedup:g}×" if step.speedup else ""
        return f"prune {step.method}{amount}"
    if isinstance(step, Quantize):
        return f"quantize {step.scheme}" + (" (aware)" if step.training else "")
    if isinstance(step, ReplaceActivation):
        return f"{step.old} → {step.new}"
    return step.kind


def _size(work: Work) -> ModelSize:
    # FLOPs of an integer graph cannot be counted; its float module has as many products.
    return costs.size_of(work.float_module, work.inputs, work.weights())


def run_cached(
    work: Work, earlier: Sequence[Step], steps: Sequence[Step], job: Job
) -> tuple[Work, tuple[StepRecord, ...]]:
    """Apply the float ``steps`` after ``earlier``, or load their cached result and records."""
    if not steps:
        return work, ()
    recipe = job.recipe
    identity = [
        job.identity,
        recipe.baseline_source.model_dump(mode="json"),
        recipe.evaluation.metrics[0],
        *(step.model_dump(mode="json") for step in (*earlier, *steps)),
    ]
    key = sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    if (file := job.store.cached_step(key)) is not None:
        label = f"{steps[0].kind:<8} {', '.join(map(title, steps))}"
        try:
            with safe_open(file, "pt") as stream:
                records = record.steps_in(stream.metadata() or {})
            tensors = load_file(file)
        except (OSError, SafetensorError, ValueError) as error:
            job.out(f"{label}: repeated, because {file} is damaged: {error}")
        else:
            scores = [score.value for entry in records for score in (entry.before, entry.after)]
            change = f", score {scores[0]:.4f} → {scores[-1]:.4f}" if scores else ""
            job.out(f"{label}: cached result for this model, data and settings{change}")
            return restore(work, steps, tensors, job), records
    work, records = run(work, steps, job)
    file = job.workspace / "made.safetensors"
    save_file(work.weights(), file, record.metadata_of(records))
    job.store.cache_step(key, file)
    return work, records


def restore(
    work: Work, steps: Sequence[Step], tensors: Mapping[str, torch.Tensor], job: Job
) -> Work:
    """Return ``work`` with ``tensors``, an earlier result of its float ``steps``."""
    for step in steps:
        if isinstance(step, ReplaceActivation):  # tensors do not show it
            work = activations.replace(work, step, job)
    rebuild.fit(work.module, tensors)
    return Work.of(work.module.eval(), work.inputs)

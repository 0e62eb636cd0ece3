"""Running a recipe's steps, one table entry per kind of step.

    source weights → train … train → baseline → every other step → compressed model

The training steps that a recipe begins with make the baseline: compression is measured
against the trained model, so a fine-tune cannot pass for a gain. Their result is kept in the
store under a key of everything that led to it, so recipes that begin alike train once, and a
job that was killed later does not train again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from cluster.artifact.store import ArtifactStore
from cluster.compression.quantize import quantize
from cluster.compression.train import train
from cluster.compression.work import StepContext, Work
from cluster.config.recipe import Quantize, Step, Train
from cluster.models import checkpoints

STEPS: dict[type, Callable[[Work, Any, StepContext], Work]] = {Train: train, Quantize: quantize}


def leading_training(steps: Sequence[Step]) -> int:
    """How many steps at the beginning are training steps."""
    count = 0
    while count < len(steps) and isinstance(steps[count], Train):
        count += 1
    return count


def run(work: Work, steps: Sequence[Step], context: StepContext) -> Work:
    """Apply ``steps`` in order."""
    for step in steps:
        work = STEPS[type(step)](work, step, context)
    return work


def trained(
    work: Work, steps: Sequence[Step], context: StepContext, store: ArtifactStore, origin: str,
    scratch: Path,
) -> Work:  # fmt: skip
    """Apply the training ``steps``, or load what they made before.

    ``origin`` identifies everything before them: model source, weights, data, seed, versions.
    ``scratch``: a directory for the weights on their way to the store.
    """
    if not steps:
        return work
    content = json.dumps([origin, [step.model_dump() for step in steps]], sort_keys=True)
    key = sha256(content.encode()).hexdigest()
    if (weights := store.cached_step(key)) is not None:
        checkpoints.fill(work.module, weights)
        context.out("train    already done for this model, data and settings")
        return work
    work = run(work, steps, context)
    file = scratch / "trained.safetensors"
    save_file(work.weights(), file)
    store.cache_step(key, file)
    return work

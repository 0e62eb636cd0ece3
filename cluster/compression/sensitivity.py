"""Sensitivity of layers: the score's drop when one layer alone is compressed.

    for each layer: with disturb(layer): outputs on validation samples → score → drop

Pruning reports it. Quantization uses it to leave the most sensitive layers in bfloat16.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import numpy as np
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from cluster.compression.evaluation.measure import Run, outputs_of
from cluster.compression.evaluation.metrics import metric
from cluster.compression.work import Job
from cluster.models.forward import Eager
from cluster.progress import Bar

MOST_SAMPLES = 256
"""Maximum number of validation samples per layer; the accuracy's resolution is 1/256."""

FEWEST_SAMPLES = 32
MOST_LAYERS = 40

_MOST_MACS = 5e12
"""Multiply-accumulates of all layers together, minutes of work. Large models use fewer samples."""

Disturb = Callable[[str], AbstractContextManager[object]]
"""Context manager that compresses the named layer on entry and restores it on exit."""


def sensitivity(
    module: nn.Module, layers: Sequence[str], disturb: Disturb, job: Job
) -> dict[str, float]:
    """Return layer → drop of the recipe's first metric, -1..1, when that layer is compressed.

    ``module`` is in eval mode and unchanged afterwards. At most :data:`MOST_LAYERS` layers are
    measured, evenly spread. ``not_judged`` in ``job.details`` names the others. Scores are means
    over the first validation samples, at most :data:`MOST_SAMPLES`, fewer for a slow model.
    Embeddings are compared with those of the uncompressed module.
    """
    chosen = spread(layers)
    if not chosen:
        return {}
    if skipped := [layer for layer in layers if layer not in chosen]:
        job.details["not_judged"] = skipped
        job.out(
            f"sensitivity of {len(chosen)} of {len(layers)} layers, evenly spread; not measured: "
            f"{', '.join(skipped[:5])}{', ...' if len(skipped) > 5 else ''}"
        )
    count = _samples(module, len(chosen), job)
    judge = metric(job.recipe.evaluation.metrics[0])
    before, labels = outputs_of(_run(module, job), job.validation, count)
    baseline = float(np.mean(judge(before, labels, before)))
    bar = Bar("sensitivity", len(chosen), job.out)
    drops = {}
    for done, layer in enumerate(chosen, 1):
        with disturb(layer):
            after, _ = outputs_of(_run(module, job), job.validation, count)
        drops[layer] = baseline - float(np.mean(judge(after, labels, before)))
        bar.update(done, layer)
    return drops


def spread(layers: Sequence[str]) -> list[str]:
    """Return at most :data:`MOST_LAYERS` layers, evenly spread from the first to the last."""
    if len(layers) <= MOST_LAYERS:
        return list(layers)
    return [layers[round(i)] for i in np.linspace(0, len(layers) - 1, MOST_LAYERS)]


def _samples(module: nn.Module, layers: int, job: Job) -> int:
    available = min(MOST_SAMPLES, len(job.validation))
    arrays, _ = job.validation.batch([0])
    with FlopCounterMode(display=False) as counter:
        _run(module, job)(arrays)
    macs = max(counter.get_total_flops() / 2, 1)
    affordable = int(_MOST_MACS / (macs * layers))
    return min(available, max(affordable, FEWEST_SAMPLES))


def _run(module: nn.Module, job: Job) -> Run:
    run = Eager(module, one_by_one=job.recipe.one_by_one)
    return lambda arrays: run(arrays)[0]

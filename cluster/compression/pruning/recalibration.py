"""Recalibration of batch normalization on training samples after pruning.

Removing channels shifts the inputs of later layers, so the running mean and variance no longer fit
(Li et al. 2020, "EagleEye", ch. 3.3: adaptive batch normalization).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from cluster.compression.work import Job

_BATCH = 64


def recalibrate(module: nn.Module, samples: int, job: Job) -> int:
    """Replace the running statistics by averages over ``samples`` random training samples.

    The samples are run in batches of 64 with equal weight; the module's weights stay. Return the
    number of samples used. It is 0, without a change, if the model has no batch normalization with
    statistics, or if there are fewer than two samples.
    """
    layers = [
        part
        for part in module.modules()
        if isinstance(part, _BatchNorm) and part.track_running_stats
    ]
    count = min(samples, len(job.train))
    if not layers or count < 2:
        return 0
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # the cumulative average
        layer.train()
    chosen = np.random.default_rng(job.seed).permutation(len(job.train))[:count]
    try:
        with torch.no_grad():
            # Batches of nearly equal size: an average over batches is then one over samples.
            for indices in np.array_split(chosen, -(-count // _BATCH)):
                arrays, _ = job.train.batch(indices)
                module(*(torch.from_numpy(array) for array in arrays))
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
            layer.eval()
    return count

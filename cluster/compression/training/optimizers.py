"""Optimizers and learning-rate schedules by name.

OPTIMIZERS  parameters, step → torch.optim.Optimizer
SCHEDULES   progress from the end of the warm-up to the last update, 0..1 → factor, 0..1
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch

from cluster.config.steps import Fit


def sgd(parameters: Iterable[torch.nn.Parameter], step: Fit) -> torch.optim.Optimizer:
    """Return SGD: ``v ← m·v + g;  w ← w - lr·(g + m·v)`` with ``g = ∇loss + decay·w``.

    Gradient descent with the momentum m of Nesterov 1983, in the form of Sutskever et al. 2013,
    "On the importance of initialization and momentum in deep learning".
    """
    return torch.optim.SGD(
        parameters,
        lr=step.learning_rate,
        momentum=step.momentum,
        nesterov=step.momentum > 0,
        weight_decay=step.weight_decay,
    )


def adamw(parameters: Iterable[torch.nn.Parameter], step: Fit) -> torch.optim.Optimizer:
    """Return AdamW: ``w ← w - lr·(m̂ / (√v̂ + ε) + decay·w)``, with the corrected moments m̂, v̂.

    Loshchilov and Hutter 2019, "Decoupled Weight Decay Regularization", algorithm 2.
    """
    return torch.optim.AdamW(parameters, lr=step.learning_rate, weight_decay=step.weight_decay)


def cosine(progress: float) -> float:
    """Return ``½·(1 + cos(π·progress))`` (Loshchilov and Hutter 2017, "SGDR", eq. 5)."""
    return 0.5 * (1 + math.cos(math.pi * progress))


def linear(progress: float) -> float:
    """Return ``1 - progress``."""
    return 1 - progress


def constant(progress: float) -> float:
    """Return 1: the peak learning rate to the end."""
    return 1.0


OPTIMIZERS: dict[str, Callable[[Iterable[torch.nn.Parameter], Fit], torch.optim.Optimizer]] = {
    "sgd": sgd,
    "adamw": adamw,
}

SCHEDULES: dict[str, Callable[[float], float]] = {
    "cosine": cosine,
    "linear": linear,
    "constant": constant,
}


def learning_rate(step: Fit, update: int, total: int) -> float:
    """Return the rate of ``update`` (from 0) of ``total``: linear warm-up, then the schedule."""
    warmup = round(total * step.warmup_share)
    if update < warmup:
        return step.learning_rate * (update + 1) / warmup
    progress = (update - warmup) / max(total - warmup, 1)
    return step.learning_rate * SCHEDULES[step.schedule](progress)

"""Losses of training and distillation, by name.

    LABEL_LOSSES          (logits, labels)               train, recovery, one term of distillation
    DISTILLATION_LOSSES   (student, teacher, temperature) between two models' outputs

Every loss is a float32 scalar, the mean over the batch. Logits are float32 ``[N, classes]``,
labels int64 ``[N]``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return ``mean(-log softmax(logits)[label])``.

    Goodfellow et al. 2016, "Deep Learning", chapter 6.2.2.
    """
    return functional.cross_entropy(logits, labels)


def brier(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return ``mean((softmax(logits) - one_hot(label))²)`` over samples and classes.

    Brier 1950, "Verification of forecasts expressed in terms of probability", divided by the
    number of classes.
    """
    targets = functional.one_hot(labels, logits.shape[1]).to(logits.dtype)
    return functional.mse_loss(logits.softmax(dim=1), targets)


def soft_targets(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return ``T² · mean over samples of KL(softmax(teacher / T) ‖ softmax(student / T))``.

    Hinton, Vinyals, Dean 2015, "Distilling the Knowledge in a Neural Network", section 2: the
    factor T² keeps the gradient's size when the temperature changes.
    """
    divergence = functional.kl_div(
        functional.log_softmax(student / temperature, dim=1),
        functional.log_softmax(teacher / temperature, dim=1),
        log_target=True,
        reduction="batchmean",
    )
    return divergence * temperature**2


def logit_error(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return ``mean((student - teacher)²)`` of the outputs, independent of the temperature.

    Ba and Caruana 2014, "Do Deep Nets Really Need to be Deep?", eq. 1, without the factor ½ and
    averaged over the outputs, too.
    """
    return functional.mse_loss(student, teacher)


LABEL_LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "cross_entropy": cross_entropy,
    "mse": brier,
}

DISTILLATION_LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]] = {
    "kl": soft_targets,
    "mse": logit_error,
}

"""Losses of training and distillation, by name and by the activation of the output.

    LABEL_LOSSES          (logits, labels)               train, recovery, one term of distillation
    DISTILLATION_LOSSES   (student, teacher, temperature) between two models' outputs

Every loss is a float32 scalar, the mean over the batch. Outputs are float32 ``[N, D]``, before the
activation. Labels are int64 ``[N]`` (softmax), bool ``[N, D]`` (sigmoid) or float32 ``[N, D]``
(none). A loss that an activation does not have is refused before the build.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional

from cluster.activation import OutputActivation


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


def binary_cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return ``mean(-log p)`` over samples and labels, ``p`` the probability of the right answer.

    ``p`` is sigmoid(logit) of a label that a sample has, 1 - sigmoid(logit) of another.
    Goodfellow et al. 2016, "Deep Learning", chapter 6.2.2.
    """
    return functional.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))


def binary_brier(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return ``mean((sigmoid(logits) - label)²)`` over samples and labels, each 0 or 1.

    Brier 1950, see :func:`brier`.
    """
    return functional.mse_loss(logits.sigmoid(), labels.to(logits.dtype))


def squared_error(numbers: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return ``mean((number - label)²)`` over samples and numbers."""
    return functional.mse_loss(numbers, labels)


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


def soft_labels(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return ``T² · mean of KL(sigmoid(teacher / T) ‖ sigmoid(student / T))``.

    Each label is a distribution of two outcomes; the mean is over samples and labels. See
    :func:`soft_targets`.
    """
    ours, theirs = student / temperature, teacher / temperature
    cross = functional.binary_cross_entropy_with_logits(ours, theirs.sigmoid())
    entropy = functional.binary_cross_entropy_with_logits(theirs, theirs.sigmoid())
    return (cross - entropy) * temperature**2


def logit_error(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return ``mean((student - teacher)²)`` of the outputs, independent of the temperature.

    Ba and Caruana 2014, "Do Deep Nets Really Need to be Deep?", eq. 1, without the factor ½ and
    averaged over the outputs, too.
    """
    return functional.mse_loss(student, teacher)


LabelLoss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
OutputLoss = Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]

LABEL_LOSSES: dict[str, dict[OutputActivation, LabelLoss]] = {
    "cross_entropy": {"softmax": cross_entropy, "sigmoid": binary_cross_entropy},
    "mse": {"softmax": brier, "sigmoid": binary_brier, "none": squared_error},
}

DISTILLATION_LOSSES: dict[str, dict[OutputActivation, OutputLoss]] = {
    "kl": {"softmax": soft_targets, "sigmoid": soft_labels},
    "mse": {"softmax": logit_error, "sigmoid": logit_error, "none": logit_error},
}


def usual_loss(activation: OutputActivation) -> LabelLoss:
    """Return the loss with labels by which importance is measured."""
    return LABEL_LOSSES["mse" if activation == "none" else "cross_entropy"][activation]

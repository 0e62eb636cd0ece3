"""Objective of a training: a loss of the module on one batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch

from cluster.activation import OutputActivation
from cluster.compression.training.losses import LABEL_LOSSES


class Objective(Protocol):
    """Loss to minimize. It is picklable, because other processes may train with it.

    ``auxiliary``: modules that are trained with the model and then discarded, such as projections
    of its features.
    """

    auxiliary: torch.nn.ModuleList

    def __call__(
        self, module: torch.nn.Module, inputs: Sequence[torch.Tensor], labels: torch.Tensor
    ) -> torch.Tensor:
        """Return the mean loss over the batch, a float32 scalar to differentiate.

        The module may return bfloat16, if the training's precision is bf16.

        ``inputs``: one tensor ``[N, ...]`` per input of the module. ``labels``: ``[N, ...]``.
        """


@dataclass
class LabelObjective:
    """Loss between the module's outputs and the labels, by its place in LABEL_LOSSES."""

    loss: str
    activation: OutputActivation
    auxiliary: torch.nn.ModuleList = field(default_factory=torch.nn.ModuleList)

    def __call__(
        self, module: torch.nn.Module, inputs: Sequence[torch.Tensor], labels: torch.Tensor
    ) -> torch.Tensor:
        return LABEL_LOSSES[self.loss][self.activation](module(*inputs).float(), labels)

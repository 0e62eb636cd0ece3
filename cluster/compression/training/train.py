"""The ``train`` step, and the fine-tuning inside other steps: descent on the labels."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from cluster.compression.training.loop import fit
from cluster.compression.training.objective import Labelled
from cluster.compression.work import StepContext, Work
from cluster.config.steps import Recovery, Train
from cluster.tensors import TensorSpec


def train(work: Work, step: Train, context: StepContext) -> Work:
    """Train the module in place on the training samples and return it in eval mode."""
    fit(work.module, step, Labelled(step.loss), context, "train")
    return Work.of(work.module, work.inputs)


def recover(
    module: torch.nn.Module, recovery: Recovery, context: StepContext, inputs: Sequence[TensorSpec]
) -> None:
    """Fine-tune what another step has changed, in place; the module ends in eval mode."""
    fit(module, recovery, Labelled(recovery.loss), context, "recover")

"""What the compression steps hand to each other."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass

import torch

from cluster.data import PreparedSamples
from cluster.progress import Print
from cluster.tensors import TensorSpec


@dataclass(frozen=True)
class Work:
    """The model between two steps.

    ``module`` takes the inputs of ``inputs`` positionally, each ``[batch, ...]``, and returns
    logits ``[batch, classes]`` in float32. ``weights`` are the tensors it computes with, by name:
    what the artifact's safetensors file holds.
    """

    module: torch.nn.Module
    inputs: tuple[TensorSpec, ...]
    weights: Callable[[], dict[str, torch.Tensor]]
    quantized_operators: int = 0


@dataclass(frozen=True)
class StepContext:
    """What a step may use besides the model."""

    train: PreparedSamples
    seed: int
    out: Print


def dynamic_batch(module: torch.nn.Module, inputs: tuple[TensorSpec, ...]) -> tuple:
    """The ``dynamic_shapes`` to export ``module`` with one batch dimension of 1 to 1024."""
    batch = torch.export.Dim("batch", min=1, max=1024)
    shapes = tuple({0: batch} for _ in inputs)
    parameters = inspect.signature(module.forward).parameters.values()
    # Inputs taken by one ``*args`` parameter are described one level deeper.
    takes_any = any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters)
    return (shapes,) if takes_any else shapes

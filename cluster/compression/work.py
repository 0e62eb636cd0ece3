"""What the compression steps hand to each other."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass

import torch

from cluster.data import PreparedSamples
from cluster.errors import CompressionError
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


EXPORT_BATCH = 8
"""Batch size of the example a model is exported with; the size is dynamic in the result."""


def exported(
    module: torch.nn.Module, inputs: tuple[TensorSpec, ...], *, strict: bool
) -> torch.export.ExportedProgram:
    """The model as a graph with one batch dimension of 1 to 1024.

    CompressionError if it has none, for instance because it branches on values.
    """
    # Inductor mistakes the layout behind a convolution of one channel whose weights are channels
    # last, as training leaves them. Packing brings them into the kernel's own layout anyway.
    module.to(memory_format=torch.contiguous_format)
    example = tuple(torch.from_numpy(spec.zeros(EXPORT_BATCH)) for spec in inputs)
    try:
        return torch.export.export(
            module, example, dynamic_shapes=_dynamic_batch(module, inputs), strict=strict
        )
    # torch.export names no common base for what it raises on models that it cannot follow.
    except Exception as error:
        raise CompressionError(
            "the model cannot be exported as one graph for every batch size; change its forward "
            f"so that it neither branches on values nor fixes the batch: {error}"
        ) from error


def _dynamic_batch(module: torch.nn.Module, inputs: tuple[TensorSpec, ...]) -> tuple:
    batch = torch.export.Dim("batch", min=1, max=1024)
    shapes = tuple({0: batch} for _ in inputs)
    parameters = inspect.signature(module.forward).parameters.values()
    # Inputs taken by one ``*args`` parameter are described one level deeper.
    takes_any = any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters)
    return (shapes,) if takes_any else shapes

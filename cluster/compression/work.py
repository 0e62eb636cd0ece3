"""What the compression steps hand to each other."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from cluster.artifact.store import ArtifactStore
from cluster.compression.launch import Launcher
from cluster.config.recipe import Recipe
from cluster.config.steps import Quantize
from cluster.data import PreparedSamples
from cluster.errors import CompressionError
from cluster.progress import Print
from cluster.tensors import TensorSpec


@dataclass(frozen=True)
class Precision:
    """What a quantize step made of the model."""

    step: Quantize
    float_module: torch.nn.Module
    """The module before, in float32: for compilers that quantize by themselves (OpenVINO)."""

    operators: int
    """Operators that compute, or are stored, in fewer bits."""

    kept: tuple[str, ...] = ()
    """Names of layers in ``float_module`` that were left in bfloat16."""


@dataclass(frozen=True)
class Work:
    """The model between two steps.

    ``module`` takes the inputs of ``inputs`` positionally, each ``[batch, ...]``, and returns
    logits (or an embedding) ``[batch, outputs]`` in float32. ``weights`` are the tensors it
    computes with, by name: what the artifact's safetensors file holds. ``precision`` is None
    while everything is float32.
    """

    module: torch.nn.Module
    inputs: tuple[TensorSpec, ...]
    weights: Callable[[], dict[str, torch.Tensor]]
    precision: Precision | None = None

    @property
    def quantized_operators(self) -> int:
        return self.precision.operators if self.precision else 0

    @staticmethod
    def of(module: torch.nn.Module, inputs: tuple[TensorSpec, ...]) -> Work:
        """A float32 module, whose weights are its own state."""
        return Work(module, inputs, lambda: tensors_of(module))


@dataclass(frozen=True)
class StepContext:
    """What a step may use besides the model."""

    recipe: Recipe
    train: PreparedSamples
    validation: PreparedSamples
    """Never trained on: for sensitivity, for early stops, and to choose by."""

    launcher: Launcher
    checkpoints: Path
    """A directory of this step alone that outlives a killed job, and goes with what it kept."""

    store: ArtifactStore
    out: Print
    baseline: Callable[[], torch.nn.Module]
    """A new copy of the float32 model before compression, in eval mode."""

    details: dict[str, Any] = field(default_factory=dict)
    """What the step found, as plain data, for the report."""

    @property
    def seed(self) -> int:
        return self.recipe.seed


def tensors_of(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The module's state as plain contiguous tensors that share no memory."""
    return {
        name: tensor.detach().clone(memory_format=torch.contiguous_format)
        for name, tensor in module.state_dict().items()
    }


EXPORT_BATCH = 8
"""Batch size of the example a model is exported with; the size is dynamic in the result."""


def exported(
    module: torch.nn.Module, inputs: tuple[TensorSpec, ...], *, strict: bool,
    batch: int | None = None,
) -> torch.export.ExportedProgram:  # fmt: skip
    """The model as a graph with one batch dimension of 1 to 1024, or of exactly ``batch``.

    CompressionError if it has none, for instance because it branches on values.
    """
    # Inductor mistakes the layout behind a convolution of one channel whose weights are channels
    # last, as training leaves them. Packing brings them into the kernel's own layout anyway.
    module.to(memory_format=torch.contiguous_format)
    example = tuple(torch.from_numpy(spec.zeros(batch or EXPORT_BATCH)) for spec in inputs)
    shapes = None if batch else _dynamic_batch(module, inputs)
    try:
        return torch.export.export(module, example, dynamic_shapes=shapes, strict=strict)
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

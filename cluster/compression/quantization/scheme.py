"""Scheme of quantization: an entry of the table in `quantize`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeGuard

import torch
from torch import nn

from cluster.compression.quantization.fake_quantize import Rounding
from cluster.compression.work import Job
from cluster.config.recipe import Recipe
from cluster.config.steps import Quantize
from cluster.tensors import TensorSpec

COMPUTING = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class QuantizedModel:
    """Quantized model."""

    module: nn.Module
    """Module with the float model's inputs and outputs, in float32."""

    weights: Callable[[], dict[str, torch.Tensor]]
    """Returns the plain tensors that it computes with, by name."""

    operators: int
    """Operators that compute, or are stored, in fewer bits."""

    whole: bool = True
    """False if the module converts between layers, and not at its inputs and outputs alone."""


@dataclass(frozen=True)
class Scheme:
    """One scheme of quantization."""

    applies_to: str
    """Layers that it quantizes, in words."""

    takes: Callable[[nn.Module], bool]
    """Returns whether it quantizes a layer, a leaf of the model."""

    convert: Callable[
        [nn.Module, tuple[TensorSpec, ...], tuple[str, ...], Quantize, Job], QuantizedModel
    ]
    """Quantizes a module, which it may change, except the named layers: they stay in bfloat16."""

    rounding: Rounding | None = None
    """Rounding of a quantized layer, for training and sensitivity."""

    refusal: Callable[[Recipe], str | None] = lambda recipe: None
    """Returns why this scheme cannot run on this machine or the recipe's targets, or None."""

    def layers(self, module: nn.Module) -> tuple[str, ...]:
        """Return the names of the layers that it quantizes."""
        return tuple(name for name, layer in module.named_modules() if self.takes(layer))


def is_linear(layer: nn.Module) -> TypeGuard[nn.Linear]:
    """Return whether a linear layer is called: attention only reads its output projection."""
    uncalled = nn.modules.linear.NonDynamicallyQuantizableLinear
    return isinstance(layer, nn.Linear) and not isinstance(layer, uncalled)

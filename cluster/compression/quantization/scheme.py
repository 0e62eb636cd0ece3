"""What a scheme is: an entry of the table in `quantize`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeGuard

import torch
from torch import nn

from cluster.compression.quantization.fake_quantize import Rounding
from cluster.compression.work import Job
from cluster.config.steps import Quantize
from cluster.tensors import TensorSpec

COMPUTING = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class Converted:
    """A quantized model."""

    module: nn.Module
    """Takes and answers what the float model does, float32 at the door."""

    weights: Callable[[], dict[str, torch.Tensor]]
    """The tensors it computes with, plain ones, by name."""

    operators: int
    """Operators that compute, or are stored, in fewer bits."""


@dataclass(frozen=True)
class Scheme:
    """How one scheme quantizes."""

    applies_to: str
    """What it quantizes, in words."""

    takes: Callable[[nn.Module], bool]
    """Whether it quantizes this layer, a leaf of the model."""

    convert: Callable[
        [nn.Module, tuple[TensorSpec, ...], tuple[str, ...], Quantize, Job], Converted
    ]
    """Quantizes a module, which it may change, but for the named layers: they stay in bfloat16."""

    rounding: Rounding | None = None
    """What quantizing does to a layer it takes, for training and for sensitivity."""

    refusal: Callable[[Job], str | None] = lambda job: None
    """Why this scheme cannot run, on this machine or on the recipe's targets."""

    def layers(self, module: nn.Module) -> tuple[str, ...]:
        """Names of the layers that it quantizes."""
        return tuple(name for name, layer in module.named_modules() if self.takes(layer))


def is_linear(layer: nn.Module) -> TypeGuard[nn.Linear]:
    """A linear layer that is called; attention's output projection is only read from."""
    unread = nn.modules.linear.NonDynamicallyQuantizableLinear
    return isinstance(layer, nn.Linear) and not isinstance(layer, unread)

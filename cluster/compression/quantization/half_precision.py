"""Half precision: a whole model in bfloat16 or float16, or single layers in bfloat16.

float32 inputs → LowPrecision: cast → module in half precision → cast → float32 logits
float32 layers → keep_in_bfloat16: the same casts as hooks around each
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn


class LowPrecision(nn.Module):
    """Model in half precision with float32 inputs and outputs.

    ``dtype``: torch.bfloat16 or torch.float16. Integer inputs are not converted. The module is
    converted in place.
    """

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.module = module.to(dtype)
        self.dtype = dtype

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        cast = (x.to(self.dtype) if x.is_floating_point() else x for x in inputs)
        logits: torch.Tensor = self.module(*cast)
        return logits.to(torch.float32)


def keep_in_bfloat16(module: nn.Module, layers: Iterable[str]) -> None:
    """Convert the named layers of a float32 model to bfloat16, in place.

    Their parameters keep their names, which a wrapping module would change.
    """
    for name in layers:
        layer = module.get_submodule(name)
        layer.to(torch.bfloat16)
        layer.register_forward_pre_hook(_inputs_to_bfloat16)
        layer.register_forward_hook(_output_to_float32)


def _inputs_to_bfloat16(layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(x.to(torch.bfloat16) for x in inputs)


def _output_to_float32(
    layer: nn.Module, inputs: tuple[Any, ...], output: torch.Tensor
) -> torch.Tensor:
    return output.to(torch.float32)

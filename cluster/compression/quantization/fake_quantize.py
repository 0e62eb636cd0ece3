"""Float layers that round like quantized ones, for training and sensitivity.

    float layer ─→ FakeQuantized: input → rounded ┐
                                 weight → rounded ┴→ the layer's own arithmetic → output

Quantization-aware training fine-tunes a model of such layers. Its result is a float model again,
so every compiler can quantize it by its own means. Sensitivity replaces one layer at a time.

Rounding has no useful derivative; the gradient passes through it unchanged for values inside the
range and is zero outside (straight-through estimator: Bengio et al. 2013, "Estimating or
Propagating Gradients Through Stochastic Neurons"; with moving averages for the ranges: Jacob et
al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference", section 3).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.func import functional_call

_AVERAGING = 0.01
"""Weight of the newest batch in the moving average of an input's range."""

INT8_MOST = 127
"""Largest magnitude of a symmetric int8 value: -128 has no positive counterpart."""

_TINY = 1e-12
"""Smallest scale: a tensor of zeros has no range."""


@dataclass(frozen=True)
class Rounding:
    """Rounding of a scheme, for weights and inputs."""

    weight: Literal["int8", "int4", "float8"]
    """int8: per output channel, symmetric. int4: per group of inputs of an output channel.
    float8: e4m3, scaled per output channel."""

    input: Literal["tensor", "token", "token_float8"] | None
    """tensor: uint8, one range from calibration. token: int8, a scale per last axis. token_float8:
    e4m3, a scale per last axis. None: not rounded."""


class FakeQuantized(nn.Module):
    """Convolution or linear ``layer`` with rounded input and weight.

    In training, ``low`` and ``high`` are moving averages of the input's range. Before the first
    training batch, each batch is rounded to its own range.
    """

    low: torch.Tensor
    high: torch.Tensor

    def __init__(self, layer: nn.Module, rounding: Rounding) -> None:
        super().__init__()
        self.layer = layer
        self.rounding = rounding
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.layer.get_parameter("weight")
        rounded = {"weight": rounded_weight(weight, self.rounding)}
        output: torch.Tensor = functional_call(self.layer, rounded, (self._rounded_input(x),))
        return output

    def _rounded_input(self, x: torch.Tensor) -> torch.Tensor:
        if self.rounding.input is None:
            return x
        x = x.float()  # bfloat16 has too few bits for scales
        if self.rounding.input == "tensor":
            low, high = self._range(x.detach())
            scale = ((high - low) / 255).clamp(min=_TINY)
            zero = (-low / scale).round().clamp(0, 255).to(torch.int32)
            return torch.fake_quantize_per_tensor_affine(x, scale, zero, 0, 255)
        rows = x.reshape(-1, x.shape[-1])
        rounding = _float8_rows if self.rounding.input == "token_float8" else _int8_rows
        return rounding(rows).reshape(x.shape)

    def _range(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        # The range includes zero, so that padding and ReLU's zeros are exact.
        low, high = x.amin().clamp(max=0), x.amax().clamp(min=0)
        seen = bool(self.low < self.high)
        if self.training:
            self.low.copy_(torch.lerp(self.low, low, _AVERAGING) if seen else low)
            self.high.copy_(torch.lerp(self.high, high, _AVERAGING) if seen else high)
        elif not seen:
            return low, high
        return self.low, self.high


def rounded_weight(weight: torch.Tensor, rounding: Rounding) -> torch.Tensor:
    """Return the weight ``[out, in, ...]`` with the values of its quantized form."""
    if rounding.weight != "int4":
        rows = _int8_rows if rounding.weight == "int8" else _float8_rows
        return rows(weight.reshape(len(weight), -1)).reshape(weight.shape)
    groups = weight.reshape(-1, int4_group(weight.shape[1]))
    low, high = groups.detach().aminmax(dim=1, keepdim=True)
    scale = ((high - low) / 15).clamp(min=_TINY)
    rounded = ((groups - low) / scale).round() * scale + low
    return _straight_through(groups, rounded).reshape(weight.shape)


def int4_group(inputs: int) -> int:
    """Return the number of weights per int4 scale: the largest of 128, 64, 32 that divides."""
    return next((size for size in (128, 64, 32) if inputs % size == 0), inputs)


def row_scales(rows: torch.Tensor, most: float) -> torch.Tensor:
    """Return scales of rows ``[rows, values]`` that map their largest magnitude to ``most``."""
    return (rows.detach().abs().amax(dim=1) / most).clamp(min=_TINY)


def _int8_rows(rows: torch.Tensor) -> torch.Tensor:
    scale = row_scales(rows, INT8_MOST)
    zeros = torch.zeros_like(scale, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(rows, scale, zeros, 0, -INT8_MOST, INT8_MOST)


def _float8_rows(rows: torch.Tensor) -> torch.Tensor:
    scale = row_scales(rows, torch.finfo(torch.float8_e4m3fn).max).unsqueeze(1)
    rounded = (rows / scale).to(torch.float8_e4m3fn).to(rows.dtype) * scale
    return _straight_through(rows, rounded)


def _straight_through(full: torch.Tensor, rounded: torch.Tensor) -> torch.Tensor:
    """Return exactly the rounded values, with the gradient of the full ones."""
    return rounded.detach() + (full - full.detach())


@contextmanager
def fake_quantized(
    module: nn.Module, layers: Iterable[str], rounding: Rounding
) -> Iterator[nn.Module]:
    """Let the named layers of ``module`` round by ``rounding`` within the context.

    Afterwards the original layers are back, with their trained weights.
    """
    originals = {name: module.get_submodule(name) for name in layers}
    for name, layer in originals.items():
        module.set_submodule(name, FakeQuantized(layer, rounding).train(layer.training))
    try:
        yield module
    finally:
        for name, layer in originals.items():
            module.set_submodule(name, layer)

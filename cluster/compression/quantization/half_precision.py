"""Half precision: a whole model in bfloat16 or float16, or single layers of a float32 model.

float32 inputs → LowPrecision: cast → module in half precision → cast → float32 logits
float32 layers → keep_in_half: the same casts as hooks around each

Many forwards do not run as a whole in half precision, because they make float32 tensors themselves:
from bytes (``x.float() / 255``), or with ``torch.zeros``. Their layers still do.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from cluster.compression.quantization.scheme import COMPUTING
from cluster.compression.work import Job
from cluster.errors import CompressionError, ForwardError
from cluster.models import copy_of
from cluster.models.forward import Eager

_SAMPLES = 4

CLOSE = 0.25
"""Largest difference from float32, as a share of the outputs' deviation, that is rounding."""


class LowPrecision(nn.Module):
    """Model in half precision with float32 inputs and outputs.

    ``dtype``: torch.bfloat16 or torch.float16. Integer inputs are not converted. ``layers``: names
    of the layers to convert; None: the whole model. The module is converted in place.
    """

    def __init__(
        self, module: nn.Module, dtype: torch.dtype, layers: Iterable[str] | None = None
    ) -> None:
        super().__init__()
        self.module = module
        self.dtype = dtype
        self.whole = layers is None
        if layers is None:
            module.to(dtype)
        else:
            keep_in_half(module, layers, dtype)

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        cast = (x.to(self.dtype) if self.whole and x.is_floating_point() else x for x in inputs)
        logits: torch.Tensor = self.module(*cast)
        return logits.to(torch.float32)


def in_half(module: nn.Module, dtype: torch.dtype, job: Job) -> LowPrecision:
    """Return the float32 ``module`` in half precision: as a whole if its forward allows that.

    Else its linear layers and convolutions are converted, and the rest stays float32. Both are run
    on training samples of ``job``. CompressionError if neither runs. ``module`` may be changed.
    """
    count = 1 if job.recipe.model.max_batch_size == 1 else min(_SAMPLES, len(job.train))
    samples, _ = job.train.batch(range(count))
    name = str(dtype).removeprefix("torch.")
    expected = Eager(module)(samples)
    whole = LowPrecision(copy_of(module), dtype)
    try:
        difference = _difference(Eager(whole)(samples), expected)
    except ForwardError as error:
        problem, difference = str(error), float("inf")
    else:
        problem = f"its answers differ by {difference:.3g} of their deviation"
    if difference <= CLOSE:
        return whole
    names = [name for name, layer in module.named_modules() if isinstance(layer, COMPUTING)]
    by_layer = LowPrecision(module, dtype, names)
    try:
        other = _difference(Eager(by_layer)(samples), expected)
    except ForwardError as error:
        if difference < float("inf"):
            return whole
        raise CompressionError(
            f"the model does not run in {name}, neither as a whole ({problem}) nor layer by layer "
            f"({error}): let forward convert its tensors to the dtype of the weights that it uses, "
            "or choose a scheme in int8"
        ) from error
    if other >= difference:
        return whole
    job.out(f"quantize in {name} layer by layer, because as a whole {problem}")
    return by_layer


def keep_in_half(module: nn.Module, layers: Iterable[str], dtype: torch.dtype) -> None:
    """Convert the named layers of a float32 model, in place, with casts around each.

    Their tensors keep their names, which a wrapping module would change. A tensor that a layer
    shares with the rest of the model is converted for the layer alone.
    """
    converted: dict[torch.Tensor, Any] = {}  # layers that share a tensor still share it
    for name in layers:
        layer = module.get_submodule(name)
        for part in layer.modules():
            for key, parameter in part._parameters.items():
                if parameter is not None and parameter.is_floating_point():
                    if parameter not in converted:
                        half = parameter.detach().to(dtype)
                        converted[parameter] = nn.Parameter(half, parameter.requires_grad)
                    part._parameters[key] = converted[parameter]
            for key, buffer in part._buffers.items():
                if buffer is not None and buffer.is_floating_point():
                    part._buffers[key] = converted.setdefault(buffer, buffer.to(dtype))
        layer.register_forward_pre_hook(partial(_cast_inputs, dtype))
        layer.register_forward_hook(_output_to_float32)


def _cast_inputs(dtype: torch.dtype, layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(x.to(dtype) for x in inputs)


def _output_to_float32(
    layer: nn.Module, inputs: tuple[Any, ...], output: torch.Tensor
) -> torch.Tensor:
    return output.to(torch.float32)


def _difference(actual: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> float:
    """Return the root mean square of the difference over the deviation of ``expected``.

    It is infinite if a value is finite in ``expected`` alone.
    """
    largest = 0.0
    for a, e in zip(actual, expected, strict=True):
        usable = np.isfinite(e)
        if not np.isfinite(a[usable]).all():
            return float("inf")
        gap = a[usable].astype(np.float64) - e[usable]
        scale = max(float(e[usable].std()), float(np.finfo(np.float32).tiny))
        largest = max(largest, float(np.sqrt((gap**2).mean())) / scale)
    return largest

"""Runs of a graph with observers that leave the observers as they are.

prepared graph ─┬─ observers copy  → the model, before anything is rounded
                └─ observers round → the model that the conversion must compute

A copy, because a quantized tensor is one: a later in-place operator does not change it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.fx import GraphModule, Interpreter

Graph = Callable[..., object]
"""Function of the graph's inputs."""


def unrounded(prepared: GraphModule) -> Graph:
    """Return the prepared graph as a function that rounds nothing."""
    return _Observed(prepared, lambda observer, tensor: tensor.clone()).run


def rounded(prepared: GraphModule) -> Graph:
    """Return the calibrated graph as a function that rounds where an observer is."""
    return _Observed(prepared, _rounded).run


class _Observed(Interpreter):
    """Interpreter of a prepared graph with another operation in the place of each observer."""

    def __init__(
        self, graph: GraphModule, operation: Callable[[Any, torch.Tensor], torch.Tensor]
    ) -> None:
        super().__init__(graph)
        self._operation = operation

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        # torchao takes half a second to import, and only one scheme needs it.
        from torchao.quantization.pt2e.observer import ObserverBase

        module = self.fetch_attr(target)
        if isinstance(module, ObserverBase):
            return self._operation(module, args[0])
        return super().call_module(target, args, kwargs)


def _rounded(observer: Any, tensor: torch.Tensor) -> torch.Tensor:
    scale, zero = observer.calculate_qparams()
    limits = (observer.quant_min, observer.quant_max)
    if observer.qscheme in (torch.per_channel_affine, torch.per_channel_symmetric):
        rounding: Any = partial(torch.fake_quantize_per_channel_affine, axis=observer.ch_axis)
    else:
        rounding = torch.fake_quantize_per_tensor_affine
    result: torch.Tensor = rounding(
        tensor, scale.float(), zero.int(), quant_min=limits[0], quant_max=limits[1]
    )
    return result

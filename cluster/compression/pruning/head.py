"""Head of a model: the layer of its output, whose size is the number of classes."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.utils.hooks import RemovableHandle

from cluster.errors import CompressionError


def prunable(module: nn.Module) -> dict[str, _ConvNd | nn.Linear]:
    """Return name → convolution or linear layer, in the module's order."""
    return {
        name: part for name, part in module.named_modules() if isinstance(part, _ConvNd | nn.Linear)
    }


def outputs_of(layer: _ConvNd | nn.Linear) -> int:
    """Return the layer's number of output channels."""
    return layer.out_channels if isinstance(layer, _ConvNd) else layer.out_features


def find_head(module: nn.Module, example: tuple[torch.Tensor, ...]) -> str:
    """Return the name of the last convolution or linear layer with as many outputs as the model.

    ``example``: the model's inputs, ``[batch, ...]``. A later layer that only mixes the same
    outputs counts as the head. If no layer has that many outputs, it is the last that runs.
    CompressionError for a model without such layers.
    """
    ran: list[tuple[str, int]] = []

    def note(name: str, layer: _ConvNd | nn.Linear) -> RemovableHandle:
        return layer.register_forward_hook(lambda *_: ran.append((name, outputs_of(layer))))

    hooks = [note(name, layer) for name, layer in prunable(module).items()]
    try:
        with torch.no_grad():
            outputs = module(*example).shape[1]
    finally:
        for hook in hooks:
            hook.remove()
    if not ran:
        raise CompressionError(
            "prune: the model has no convolution or linear layer that runs as a module, so there "
            "is nothing to prune; remove the step"
        )
    fitting = [name for name, size in ran if size == outputs]
    return fitting[-1] if fitting else ran[-1][0]

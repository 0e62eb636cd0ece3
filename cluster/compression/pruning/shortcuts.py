"""Replacement of parameter-free shortcuts by convolutions, detected by running the modules.

    parameter-free module, more channels out than in ─→ selection matrix? ─→ SelectionShortcut

Torch-Pruning traces channels through layers, but not through the slices and pads of "option A"
shortcuts (He et al. 2016, ch. 3.3).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from cluster.models.shortcuts import SelectionShortcut, put


def replace_padded_shortcuts(
    module: nn.Module, example: tuple[torch.Tensor, ...]
) -> tuple[str, ...]:
    """Replace every padded shortcut in ``module``, in place, and return their names.

    ``example``: the model's inputs, ``[batch, ...]``. The outputs are equal bit by bit.
    """
    seen: dict[str, set[tuple[torch.Size, torch.Size]]] = {}

    def note(name: str, part: nn.Module) -> Any:
        def record(_: nn.Module, inputs: tuple, output: Any) -> None:
            tensors = [*inputs, output]
            fits = len(tensors) == 2 and all(
                isinstance(tensor, torch.Tensor) and tensor.ndim == 4 for tensor in tensors
            )
            if fits and output.shape[1] > inputs[0].shape[1]:
                seen.setdefault(name, set()).add((inputs[0].shape, output.shape))

        return part.register_forward_hook(record)

    hooks = [
        note(name, part)
        for name, part in module.named_modules()
        if name and next(part.parameters(), None) is None and next(part.buffers(), None) is None
    ]
    try:
        with torch.no_grad():
            module(*example)
    finally:
        for hook in hooks:
            hook.remove()
    replaced: list[str] = []
    for name, shapes in seen.items():
        # Of nested modules the outer comes last and replaces the inner, too.
        if len(shapes) == 1:
            convolution = as_convolution(module.get_submodule(name), *next(iter(shapes)))
            if convolution is not None:
                replaced = [inner for inner in replaced if not inner.startswith(f"{name}.")]
                put(module, name, convolution)
                replaced.append(name)
    return tuple(replaced)


def as_convolution(
    part: nn.Module, before: torch.Size, after: torch.Size
) -> SelectionShortcut | None:
    """Return the 1×1 convolution that computes exactly ``part``, or None.

    ``before``, ``after``: shapes ``[batch, channels, height, width]`` of its input and output.
    """
    stride = tuple(round(wide / narrow) for wide, narrow in zip(before[2:], after[2:], strict=True))
    if 0 in stride:
        return None
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        probe = torch.randn(before, generator=generator)
        output = part(probe)
        sampled = probe[:, :, :: stride[0], :: stride[1]]
        if sampled.shape[2:] != output.shape[2:]:
            return None
        weight = torch.zeros(after[1], before[1], 1, 1)
        for channel in range(after[1]):
            equal = (sampled == output[:, channel : channel + 1]).all(dim=(0, 2, 3)).nonzero()
            if len(equal):
                weight[channel, equal[0]] = 1
        convolution = SelectionShortcut(weight, (stride[0], stride[1]))
        # Check another random input and a constant one: only a selection matches on both.
        for other in (torch.randn(before, generator=generator), torch.ones(before)):
            if not torch.equal(convolution(other), part(other)):
                return None
    return convolution

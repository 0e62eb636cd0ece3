"""Parameter-free shortcuts → convolutions, found by trying out what a module does.

    parameter-free module, more channels out than in ─→ selection matrix? ─→ SelectionShortcut

Torch-Pruning follows channels through layers, not through the slices and pads of "option A"
shortcuts (He et al. 2016, ch. 3.3), whatever code they are written in.
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

    ``example``: the model's inputs, ``[batch, ...]``. The outputs stay as they are, bit by bit.
    """
    seen: dict[str, set[tuple[torch.Size, torch.Size]]] = {}

    def note(name: str, part: nn.Module) -> Any:
        def record(_: nn.Module, inputs: tuple, output: Any) -> None:
            tensors = [*inputs, output]
            fits = len(tensors) == 2 and all(
                isinstance(each, torch.Tensor) and each.ndim == 4 for each in tensors
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
        # Of nested ones the outer comes last and takes the inner along.
        if len(shapes) == 1:
            convolution = as_convolution(module.get_submodule(name), *next(iter(shapes)))
            if convolution is not None:
                replaced = [each for each in replaced if not each.startswith(f"{name}.")]
                put(module, name, convolution)
                replaced.append(name)
    return tuple(replaced)


def as_convolution(
    part: nn.Module, taken: torch.Size, answered: torch.Size
) -> SelectionShortcut | None:
    """The 1×1 convolution that does exactly what ``part`` does, or None if none does.

    ``taken``, ``answered``: shapes ``[batch, channels, height, width]`` of its input and output.
    """
    stride = tuple(
        round(before / after) for before, after in zip(taken[2:], answered[2:], strict=True)
    )
    if 0 in stride:
        return None
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        probe = torch.randn(taken, generator=generator)
        output = part(probe)
        sampled = probe[:, :, :: stride[0], :: stride[1]]
        if sampled.shape[2:] != output.shape[2:]:
            return None
        weight = torch.zeros(answered[1], taken[1], 1, 1)
        for channel in range(answered[1]):
            equal = (sampled == output[:, channel : channel + 1]).all(dim=(0, 2, 3)).nonzero()
            if len(equal):
                weight[channel, equal[0]] = 1
        convolution = SelectionShortcut(weight, (stride[0], stride[1]))
        # Another input, and one without noise's symmetry: only a selection answers both.
        for other in (torch.randn(taken, generator=generator), torch.ones(taken)):
            if not torch.equal(convolution(other), part(other)):
                return None
    return convolution

"""Parameter-free shortcut as a convolution that pruning and rebuilding can follow.

"Option A" of He et al. 2016 ("Deep residual learning", ch. 3.3) subsamples its input and pads
channels of zeros. Channels cannot be traced through slices and pads, so pruning replaces them by a
:class:`SelectionShortcut`. A fresh model gets the same one when its tensors include it.
"""

from __future__ import annotations

import torch

SUBSAMPLING = "subsampling"
"""Name of the buffer that marks a selection shortcut in saved tensors, and holds its stride."""


class SelectionShortcut(torch.nn.Conv2d):
    """1×1 convolution whose weight is a frozen selection matrix.

    Every output channel is one input channel at every ``stride``-th pixel, or zero. Adding zeros is
    exact, so the output is bit-identical to that of the replaced slices and pads.

    ``weight``: FP32 ``[out, in, 1, 1]`` of zeros and ones; ``subsampling``: INT64 ``[2]``, the
    stride in height and width.
    """

    subsampling: torch.Tensor

    def __init__(self, weight: torch.Tensor, stride: tuple[int, int]) -> None:
        outputs, inputs = weight.shape[:2]
        super().__init__(inputs, outputs, kernel_size=1, stride=stride, bias=False)
        self.weight = torch.nn.Parameter(weight.clone(), requires_grad=False)
        self.register_buffer(SUBSAMPLING, torch.tensor(stride, dtype=torch.int64))


def put(root: torch.nn.Module, name: str, replacement: torch.nn.Module) -> None:
    """Replace the submodule ``name`` by ``replacement``, under all of its names in ``root``."""
    old = root.get_submodule(name)
    for parent in list(root.modules()):
        for attribute, child in list(parent.named_children()):
            if child is old:
                setattr(parent, attribute, replacement)

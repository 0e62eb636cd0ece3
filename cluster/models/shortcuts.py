"""A shortcut without parameters, as a convolution: what pruning and rebuilding can follow.

"Option A" of He et al. 2016 ("Deep residual learning", ch. 3.3) subsamples its input and pads
channels of zeros. Slices and pads leave no trace by which channels could be followed, so
pruning puts a :class:`SelectionShortcut` in their place; a fresh model gets the same one when
the tensors it is to take name it.
"""

from __future__ import annotations

import torch

SUBSAMPLING = "subsampling"
"""Name of the buffer by which saved tensors tell a selection shortcut, and its stride."""


class SelectionShortcut(torch.nn.Conv2d):
    """A 1×1 convolution whose weight is a frozen selection matrix: every output channel is one
    input channel at every ``stride``-th pixel, or zero. Adding zeros is exact, so its output
    equals the slices and pads it stands for bit by bit.

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
    """Put ``replacement`` in the place of the submodule ``name``, wherever ``root`` holds it."""
    old = root.get_submodule(name)
    for parent in list(root.modules()):
        for attribute, child in list(parent.named_children()):
            if child is old:
                setattr(parent, attribute, replacement)

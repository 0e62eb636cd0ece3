"""Outputs of a model's inner layers, and their comparison between student and teacher.

captured(module, names) → {name: output} of the next forward
FeatureMatch            → projected, pooled to one size → mean squared error
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn import functional

from cluster.errors import CompressionError


@contextmanager
def captured(module: nn.Module, names: Sequence[str]) -> Iterator[dict[str, torch.Tensor]]:
    """Yield a dict that collects the outputs of the layers ``names`` while the module runs.

    The first tensor counts if a layer returns several, the last call if it runs more than once.
    """
    outputs: dict[str, torch.Tensor] = {}

    def store(name: str, output: object) -> None:
        first = output[0] if isinstance(output, tuple | list) else output
        if not isinstance(first, torch.Tensor):
            raise CompressionError(
                f"the layer {name!r} returns {type(output).__name__}, but feature_mse needs a "
                "tensor; name a layer inside it"
            )
        # A following in-place ReLU may overwrite this memory.
        outputs[name] = first.clone()

    hooks = [
        module.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, output, name=name: store(name, output)
        )
        for name in names
    ]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


class FeatureMatch(nn.Module):
    """Loss ``mean((project(student) - teacher)²)`` of two layers' outputs.

    Romero et al. 2015, "FitNets: Hints for Thin Deep Nets", eq. 3, as a mean instead of half a
    sum. Its regressor is a linear projection of the student's channels, trained with the student:
    a 1×1 convolution of feature maps ``[N, C, H, W]``, a linear layer for tokens ``[N, T, C]`` and
    vectors ``[N, C]``, nothing for equal channels. If heights and widths, or numbers of tokens,
    differ, the larger one is averaged down to the smaller.
    """

    def __init__(self, student: torch.Tensor, teacher: torch.Tensor, names: str) -> None:
        """Size the projection by one output of each layer.

        CompressionError, with ``names``, if their numbers of dimensions differ or are not 2 to 4.
        """
        super().__init__()
        if student.dim() != teacher.dim() or student.dim() not in (2, 3, 4):
            raise CompressionError(
                f"feature_mse of {names}: the outputs are {list(student.shape)} and "
                f"{list(teacher.shape)}; expected both [N, C], [N, tokens, C] or [N, C, H, W]"
            )
        channel = 1 if student.dim() == 4 else -1
        inputs, outputs = student.shape[channel], teacher.shape[channel]
        self.project: nn.Module = nn.Identity()
        if inputs != outputs and student.dim() == 4:
            self.project = nn.Conv2d(inputs, outputs, kernel_size=1)
        elif inputs != outputs:
            self.project = nn.Linear(inputs, outputs)

    def forward(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        student, teacher = _one_size(student, teacher)
        return functional.mse_loss(self.project(student), teacher)


def _one_size(student: torch.Tensor, teacher: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    if student.dim() == 4 and student.shape[2:] != teacher.shape[2:]:
        size = (
            min(student.shape[2], teacher.shape[2]),
            min(student.shape[3], teacher.shape[3]),
        )
        return (
            functional.adaptive_avg_pool2d(student, size),
            functional.adaptive_avg_pool2d(teacher, size),
        )
    if student.dim() == 3 and student.shape[1] != teacher.shape[1]:
        tokens = min(student.shape[1], teacher.shape[1])
        pooled = [
            functional.adaptive_avg_pool1d(output.transpose(1, 2), tokens).transpose(1, 2)
            for output in (student, teacher)
        ]
        return pooled[0], pooled[1]
    return student, teacher

"""The submodule that mixes the items of a batch, for the message of a refusal.

item alone       → inputs and outputs of each call ┐
item beside mate → inputs and outputs of each call ┴→ the first call whose outputs alone differ
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from cluster.errors import ForwardError
from cluster.independence import ROUNDING, Item
from cluster.models.forward import Eager


def mixing_part(module: nn.Module, item: Item, mate: Item) -> nn.Module | None:
    """Return the first submodule whose answer to ``item`` depends on ``mate`` beside it.

    Its inputs do not depend on it yet. None if no submodule is found, for instance because the
    model fails on a batch of 2 or then calls other submodules.
    """
    try:
        alone = _calls(module, item)
        batch = [np.concatenate(arrays) for arrays in zip(mate, item, strict=True)]
        beside = _calls(module, batch)
    except ForwardError:
        return None
    for one, two in zip(alone, beside, strict=False):
        if one.part != two.part:
            return None
        if _agree(one.inputs, two.inputs) and not _agree(one.outputs, two.outputs):
            return dict(module.named_modules())[one.part]
    return None


@dataclass(frozen=True)
class _Call:
    """One call of a submodule, by name, with the last item of its inputs and outputs."""

    part: str
    inputs: list[torch.Tensor]
    outputs: list[torch.Tensor]


def _calls(module: nn.Module, arrays: Sequence[np.ndarray]) -> list[_Call]:
    """Return the calls of all submodules of a copy, in the order in which they end."""
    run, size = Eager(module), len(arrays[0])
    names = {part: name for name, part in run.module.named_modules()}
    calls: list[_Call] = []

    def note(part: nn.Module, inputs: Any, outputs: Any) -> None:
        calls.append(_Call(names[part], _last(inputs, size), _last(outputs, size)))

    for part in names:
        part.register_forward_hook(note)
    run(arrays)
    return calls


def _last(values: Any, size: int) -> list[torch.Tensor]:
    """Return the last item of each tensor ``[size, ...]`` among ``values``."""
    values = values if isinstance(values, tuple | list) else [values]
    return [
        value[-1].detach().clone()
        for value in values
        if isinstance(value, torch.Tensor) and value.dim() and len(value) == size
    ]


def _agree(one: Sequence[torch.Tensor], two: Sequence[torch.Tensor]) -> bool:
    if [tensor.shape for tensor in one] != [tensor.shape for tensor in two]:
        return False
    return all(
        torch.allclose(a.double(), b.double(), ROUNDING, ROUNDING, equal_nan=True)
        for a, b in zip(one, two, strict=True)
    )

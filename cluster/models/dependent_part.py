"""The submodule whose answer depends on more than its item, for the message of a refusal.

item alone                     → inputs and outputs of each call ┐ the first call whose outputs
item beside mate, or run later → inputs and outputs of each call ┴ differ, and not its inputs
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from cluster.errors import ForwardError
from cluster.independence import ROUNDING, Item
from cluster.models.forward import Eager

_TRIES = 16
"""Runs in search of a random draw that rarely changes the answer."""


def mixing_part(module: nn.Module, item: Item, mate: Item) -> nn.Module | None:
    """Return the first submodule whose answer to ``item`` depends on ``mate`` beside it.

    None if no submodule is found, for instance because the model fails on a batch of 2 or then
    calls other submodules.
    """
    try:
        alone = _calls(Eager(module), item)
        batch = [np.concatenate(arrays) for arrays in zip(mate, item, strict=True)]
        name = _first_difference(alone, _calls(Eager(module), batch))
    except ForwardError:
        return None
    return None if name is None else module.get_submodule(name)


def changing_part(module: nn.Module, item: Item, earlier: Item) -> nn.Module | None:
    """Return the first submodule that answers ``item`` otherwise after a run on ``earlier``.

    None if no submodule is found.
    """
    try:
        alone = _calls(Eager(module), item)
        later = Eager(module)
        later(earlier)
        for _ in range(_TRIES):
            if (name := _first_difference(alone, _calls(later, item))) is not None:
                return module.get_submodule(name)
    except ForwardError:
        pass
    return None


@dataclass(frozen=True)
class _Call:
    """One call of a submodule, by name, with the last item of its inputs and outputs."""

    part: str
    inputs: list[torch.Tensor]
    outputs: list[torch.Tensor]


def _calls(run: Eager, arrays: Sequence[np.ndarray]) -> list[_Call]:
    """Return the calls of all submodules in a run, in the order in which they end."""
    size = len(arrays[0])
    calls: list[_Call] = []

    def note(name: str, part: nn.Module, inputs: Any, outputs: Any) -> None:
        calls.append(_Call(name, _last(inputs, size), _last(outputs, size)))

    hooks = [
        part.register_forward_hook(partial(note, name)) for name, part in run.module.named_modules()
    ]
    try:
        run(arrays)
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def _first_difference(one: Sequence[_Call], two: Sequence[_Call]) -> str | None:
    """Return the part of the first call whose outputs differ, and not its inputs."""
    for a, b in zip(one, two, strict=False):
        if a.part != b.part:
            return None
        if _agree(a.inputs, b.inputs) and not _agree(a.outputs, b.outputs):
            return a.part
    return None


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

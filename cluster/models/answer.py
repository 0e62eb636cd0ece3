"""Answer of a module's forward: one tensor with a row per item, or a refusal in one sentence."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from cluster.errors import SourceError

_SHOWN = 5
"""Maximum number of tensors that a message describes."""


def width_of(answer: Any, batch: int, name: str) -> int:
    """Return the numbers per item of an answer to ``batch`` items, FP32 ``[batch, numbers]``.

    ``name``: of the model's source. SourceError for every other answer, with its tensors.
    """
    if not isinstance(answer, torch.Tensor):
        raise SourceError(
            f"{name}: forward returns {_described(answer, batch)}, and a model is served with one "
            "output; let forward return one tensor of logits or numbers [batch, n], or wrap the "
            "module in one that does. Nothing was built"
        )
    shape = _shape(answer, batch)
    returns = f"{name}: forward returns {shape}"
    expected = "expected one row of logits or numbers per item, [batch, n]"
    if answer.ndim == 0 or answer.shape[0] != batch:
        raise SourceError(
            f"{returns} for a batch of {batch}, {expected}; keep the batch as the first dimension. "
            "Nothing was built"
        )
    if answer.ndim == 1:
        raise SourceError(
            f"{returns}, {expected}; let it return [batch, 1] (output.unsqueeze(1)), with "
            "model.activation: none for a regression or sigmoid for one label. Nothing was built"
        )
    if answer.ndim > 2:
        raise SourceError(
            f"{returns}, such as masks or features, {expected}; let it return output.flatten(1) "
            "with model.activation: none, and restore the shape at the client, or the row of "
            "interest. Nothing was built"
        )
    if answer.shape[1] == 0:
        raise SourceError(f"{returns}, {expected} with n of 1 or more. Nothing was built")
    if answer.dtype != torch.float32:
        advice = "build the module in float32"
        if not answer.is_floating_point():
            advice = "let it return logits or numbers, not their argmax or a comparison"
        raise SourceError(
            f"{returns} of {answer.dtype}, expected torch.float32; {advice}. Nothing was built"
        )
    return answer.shape[1]


def _described(answer: Any, batch: int) -> str:
    kind, tensors = type(answer).__name__, [*_tensors(answer, "")]
    if not tensors:
        return f"a {kind} without a tensor"
    count = f"a {kind} of {len(tensors)} {'tensor' if len(tensors) == 1 else 'tensors'}"
    listed = ", ".join(f"{name} {_shape(tensor, batch)}" for name, tensor in tensors[:_SHOWN])
    return f"{count} ({listed}{', ...' if len(tensors) > _SHOWN else ''})"


def _tensors(value: Any, name: str) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the tensors inside containers, with their keys or positions."""
    if isinstance(value, torch.Tensor):
        yield name, value
        return
    items: Any = ()
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, tuple | list):
        items = zip(getattr(value, "_fields", range(len(value))), value, strict=True)
    elif dataclasses.is_dataclass(value):
        items = vars(value).items()
    for key, part in items:
        yield from _tensors(part, f"{name}.{key}" if name else str(key))


def _shape(tensor: torch.Tensor, batch: int) -> str:
    sizes = [str(size) for size in tensor.shape]
    if sizes and tensor.shape[0] == batch:
        sizes[0] = "batch"
    return f"[{', '.join(sizes)}]"

"""Weights of a file for a built module; only tensors are read, and no code runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from cluster.errors import SourceError

_COUNTER = "num_batches_tracked"

_SHOWN = 5
"""Maximum number of names in a message, per kind of mismatch."""


def fill(module: torch.nn.Module, path: Path) -> None:
    """Load every tensor of the checkpoint ``path`` into ``module``, in place.

    Names and shapes must match exactly, after removal of a ``{"state_dict": ...}`` container and
    of the ``module.`` prefix of data-parallel training. Only BatchNorm's batch counters may be
    missing, which old files lack and no output depends on, and all but one name of a tensor that
    several layers share.

    Raises :class:`SourceError` when the file cannot be read, holds more than tensors, or does
    not match the module.
    """
    state = module.state_dict()
    tensors = _without_prefix(read(path), state)
    present = {_memory(state[name]) for name in tensors.keys() & state.keys()}
    lacking = [
        name
        for name, tensor in state.items()
        if name not in tensors and not name.endswith(_COUNTER) and _memory(tensor) not in present
    ]
    problems = [
        *_problem("the file lacks", lacking),
        *_problem("the model lacks", sorted(tensors.keys() - state.keys())),
        *_problem(
            "shapes differ:",
            [
                f"{name} {list(tensors[name].shape)} in the file, "
                f"expected {list(state[name].shape)}"
                for name in state
                if name in tensors and tensors[name].shape != state[name].shape
            ],
        ),
    ]
    if problems:
        raise SourceError(
            f"{path} does not match the model: {'; '.join(problems)}. Check model.source and "
            f"model.num_classes"
        )
    # The module's own mapping has version marks that some modules require (MNASNet), and that
    # safetensors files cannot hold.
    state.update(tensors)
    module.load_state_dict(state, strict=True)


def read(path: Path) -> dict[str, torch.Tensor]:
    """Return name → tensor of a ``.safetensors``, ``.pt``, ``.pth`` or ``.bin`` file, on CPU."""
    if not path.is_file():
        raise SourceError(f"model.weights: {path} is not a file")
    reader = _READERS.get(path.suffix)
    if reader is None:
        raise SourceError(
            f"model.weights: {path} must end in one of {', '.join(_READERS)}, not {path.suffix!r}"
        )
    return _unwrap(reader(path), path)


def _read_safetensors(path: Path) -> Any:
    try:
        return safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise SourceError(f"{path} cannot be read as safetensors: {error}") from error


def _read_pickle(path: Path) -> Any:
    # weights_only refuses all globals but torch's tensor builders, before calling them. The error
    # of a damaged file depends on the damage, so every error means "refused".
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise SourceError(
            f"{path} is refused: it is damaged, or a pickle with more than tensors "
            f"({type(error).__name__}: {reason}); save module.state_dict() instead, preferably "
            f"as .safetensors"
        ) from error


_READERS: dict[str, Callable[[Path], Any]] = {
    ".safetensors": _read_safetensors,
    ".pt": _read_pickle,
    ".pth": _read_pickle,
    ".bin": _read_pickle,
}


def _unwrap(content: Any, path: Path) -> dict[str, torch.Tensor]:
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict):
        raise SourceError(
            f"{path} holds a {type(content).__name__}, expected a mapping of names to tensors"
        )
    foreign = [str(name) for name, value in content.items() if not isinstance(value, torch.Tensor)]
    if foreign:
        raise SourceError(
            f"{path} holds more than tensors: {', '.join(foreign[:_SHOWN])}; save the state_dict "
            f'alone, or under the key "state_dict"'
        )
    return dict(content)


def _without_prefix(
    tensors: dict[str, torch.Tensor], names: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Remove the prefix ``module.`` of data-parallel training, unless the model has it, too."""
    prefix = "module."
    if all(name.startswith(prefix) for name in tensors) and not all(
        name.startswith(prefix) for name in names
    ):
        return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def _memory(tensor: torch.Tensor) -> tuple[int, torch.Size]:
    """Return what equals that of another tensor if both are the same memory in the same shape."""
    return tensor.data_ptr(), tensor.shape


def _problem(title: str, names: list[str]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return [f"{title} {', '.join(names[:_SHOWN])}{more}"]

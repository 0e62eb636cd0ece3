"""Checkpoint file of a training: written after each epoch, read after a kill.

    Checkpoint ─ write → KEY.safetensors ─ read → Checkpoint, or None

The file has tensors, and JSON in its metadata: reading it runs no code. It is written under another
name and renamed, so it is never incomplete. Its name is the key of the training, so each training
of one step (after each pruning iteration) has its own file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from cluster.errors import CompressionError

_METADATA = "headrace"
_MODULE, _OPTIMIZER = "module/", "optimizer/"


@dataclass(frozen=True)
class Checkpoint:
    """State at the end of an epoch.

    It has no random state: each epoch has its own random stream, seeded by its number. The learning
    rate follows from the number of the update.
    """

    epochs: int
    """Number of finished epochs."""

    losses: tuple[float, ...]
    """Mean loss of each epoch."""

    module: dict[str, torch.Tensor]
    optimizer: dict[str, torch.Tensor]
    """``PARAMETER.NAME`` → tensor, such as ``3.momentum_buffer``; see :func:`optimizer_tensors`."""

    threads: int
    """CPU threads of each process: another number would add floats in another order."""


def key_of(settings: str, tensors: dict[str, torch.Tensor]) -> str:
    """Return a sha256 in hex of a training's settings and initial weights."""
    digest = sha256(settings.encode())
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        digest.update(f"\n{name} {plain.dtype} {list(plain.shape)}\n".encode())
        digest.update(plain.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write(directory: Path, key: str, checkpoint: Checkpoint) -> None:
    """Replace the training's last checkpoint.

    CompressionError if it cannot be written, for instance because the disk is full. The last
    checkpoint then stays, without a partial file.
    """
    path = directory / f"{key}.safetensors"
    new = directory / f"{key}.{os.getpid()}.partial"
    tensors = {
        **_prefixed(_MODULE, checkpoint.module),
        **_prefixed(_OPTIMIZER, checkpoint.optimizer),
    }
    state = {
        "epochs": checkpoint.epochs,
        "losses": checkpoint.losses,
        "threads": checkpoint.threads,
    }
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for abandoned in directory.glob(f"{key}.*.partial"):  # a killed process leaves them
            abandoned.unlink()
        save_file(tensors, new, metadata={_METADATA: json.dumps(state)})
        with new.open("rb") as stream:
            os.fsync(stream.fileno())
        new.replace(path)
    except (OSError, SafetensorError) as error:
        _remove(new)
        size = sum(tensor.nbytes for tensor in tensors.values())
        raise CompressionError(
            f"the checkpoint of epoch {checkpoint.epochs} ({size / 1e6:.1f} MB) cannot be written "
            f"to {directory}: {error}; free space there, or choose another store with --store"
        ) from error


def read(directory: Path, key: str) -> Checkpoint | None:
    """Return the last checkpoint of the training with that key, or None without a valid one."""
    path = directory / f"{key}.safetensors"
    try:
        with safe_open(path, framework="pt") as file:
            state = json.loads(file.metadata()[_METADATA])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return Checkpoint(
            epochs=int(state["epochs"]),
            losses=tuple(map(float, state["losses"])),
            module=_under(_MODULE, tensors),
            optimizer=_under(_OPTIMIZER, tensors),
            threads=int(state["threads"]),
        )
    # Without a file, or with one that a crash of the machine damaged, the training starts again.
    except (OSError, SafetensorError, TypeError, KeyError, ValueError):
        return None


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Return the optimizer's state of each parameter, as tensors on the CPU."""
    return {
        f"{index}.{name}": value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for index, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
        if isinstance(value, torch.Tensor)
    }


def fill_optimizer(
    optimizer: torch.optim.Optimizer,
    parameters: Iterable[torch.nn.Parameter],
    tensors: dict[str, torch.Tensor],
) -> None:
    """Load the state from :func:`optimizer_tensors` into a new optimizer of ``parameters``."""
    targets = list(parameters)
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        index, _, name = key.partition(".")
        like = targets[int(index)]
        # The optimizer itself would use the parameter's memory layout.
        fitted = torch.empty_like(like).copy_(tensor) if tensor.shape == like.shape else tensor
        state.setdefault(int(index), {})[name] = fitted
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _prefixed(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def _under(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return  # the caller raises the more specific error

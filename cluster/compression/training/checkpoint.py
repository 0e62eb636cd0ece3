"""Where a training stands, in one file: written at each epoch's end, read after a killed process.

    Checkpoint ─ write → KEY.safetensors ─ read → Checkpoint, or None

Tensors only, with JSON in the file's metadata: nothing that runs code when it is read. The file
is written under another name and renamed, so there is always a whole one or none. Its name is the
key of the training, so that the trainings of one step (after each pruning iteration) each find
their own.
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
    """The state at the end of an epoch.

    Randomness needs no place in it: every epoch draws from a stream of its own, seeded by its
    number. The learning rate follows from the number of the update.
    """

    epochs: int
    """Epochs that are finished."""

    losses: tuple[float, ...]
    """Mean loss of each."""

    module: dict[str, torch.Tensor]
    optimizer: dict[str, torch.Tensor]
    """``PARAMETER.NAME`` → tensor, such as ``3.momentum_buffer``; see :func:`optimizer_tensors`."""

    threads: int
    """CPU threads that each process computed with: another number adds floats in another order."""


def key_of(settings: str, tensors: dict[str, torch.Tensor]) -> str:
    """A sha256 in hex of a training's settings and of the weights that it starts with."""
    found = sha256(settings.encode())
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        found.update(f"\n{name} {plain.dtype} {list(plain.shape)}\n".encode())
        found.update(plain.flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


def write(directory: Path, key: str, checkpoint: Checkpoint) -> None:
    """Put the checkpoint in the place of the training's last one.

    CompressionError if it cannot be written, for instance because the disk is full; then nothing
    is left of it, and the last one stays.
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
        for abandoned in directory.glob(f"{key}.*.partial"):  # of a process that was killed
            abandoned.unlink()
        save_file(tensors, new, metadata={_METADATA: json.dumps(state)})
        with new.open("rb") as written:
            os.fsync(written.fileno())
        new.replace(path)
    except (OSError, SafetensorError) as error:
        _remove(new)
        size = sum(tensor.nbytes for tensor in tensors.values())
        raise CompressionError(
            f"the checkpoint of epoch {checkpoint.epochs} ({size / 1e6:.1f} MB) cannot be written "
            f"to {directory}: {error}; free space there, or choose another store with --store"
        ) from error


def read(directory: Path, key: str) -> Checkpoint | None:
    """The last checkpoint of the training of that key, or None if there is none to go on from."""
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
    # A file that is none, or damaged by a crash of the machine, costs the epochs it stood for.
    except (OSError, SafetensorError, TypeError, KeyError, ValueError):
        return None


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """What the optimizer remembers of each parameter, as plain tensors on the CPU."""
    return {
        f"{index}.{name}": value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for index, kept in optimizer.state_dict()["state"].items()
        for name, value in kept.items()
        if isinstance(value, torch.Tensor)
    }


def fill_optimizer(
    optimizer: torch.optim.Optimizer,
    parameters: Iterable[torch.nn.Parameter],
    tensors: dict[str, torch.Tensor],
) -> None:
    """Give a new optimizer of ``parameters`` what :func:`optimizer_tensors` took from another."""
    of = list(parameters)
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        index, _, name = key.partition(".")
        like = of[int(index)]
        # In the parameter's own memory layout, as the optimizer would have made it.
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
        return  # the error that led here says more

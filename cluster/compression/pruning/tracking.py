"""Whether the channels that were followed are the model's own, said before anything is trained.

Torch-Pruning follows channels through layers and the common operations between them. Where a
model's forward slices, pads, shuffles or reshapes them by its own code, the graph may be wrong,
and what comes of it is an obscure error in another place, or a wrong model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.utils.hooks import RemovableHandle
from torch_pruning.dependency.node import Node

from cluster.compression.pruning.channels import Removal, tensors_of, zero
from cluster.compression.pruning.head import prunable
from cluster.errors import CompressionError, HeadraceError

_ADVICE = (
    "the forward slices, pads, shuffles or reshapes channels in a way that cannot be followed. "
    "Name the layers around it in `spare`, put the operation into a layer of its own (a "
    "parameter-free module for a padded shortcut), or use method magnitude"
)

_TOLERANCE = 1e-3
"""Largest difference of a layer's outputs, relative to the largest: sums in another order."""


@contextmanager
def explained(module: nn.Module) -> Iterator[None]:
    """Turn what Torch-Pruning or the model raises into a CompressionError that names the layer."""
    try:
        yield
    except HeadraceError:
        raise
    # Torch-Pruning names no errors of its own: indices, divisions and shapes fail as they come.
    except Exception as error:
        layer = _layer_in(error, module)
        raise CompressionError(
            f"prune: the model cannot be pruned by channels{f' at {layer}' if layer else ''} "
            f"({type(error).__name__}: {_first_line(error)}): {_ADVICE}"
        ) from error


def verify(
    whole: nn.Module, pruned: nn.Module, removed: Sequence[Removal],
    example: tuple[torch.Tensor, ...],
) -> None:  # fmt: skip
    """Check that ``pruned`` runs and answers as ``whole`` does with the removed weights at zero.

    ``whole``: a copy from before, which is changed. Where a layer counts its channels, as a layer
    normalization does, only that the model runs and answers as many outputs is checked.
    CompressionError otherwise.
    """
    with torch.no_grad():
        expected = whole(*example)
        running: list[str] = []
        hooks = [
            hook
            for name, part in pruned.named_modules()
            for hook in (
                part.register_forward_pre_hook(lambda *_, name=name: running.append(name)),
                part.register_forward_hook(lambda *_: _forget_last(running)),
            )
        ]
        try:
            answered = pruned(*example)
        # Whatever the model's own code raises on tensors of a size it did not expect.
        except Exception as error:
            layer = next((name for name in reversed(running) if name), "its forward")
            raise CompressionError(
                f"prune: without the channels the model fails in {layer} "
                f"({type(error).__name__}: {_first_line(error)}): {_ADVICE}"
            ) from error
        finally:
            for hook in hooks:
                hook.remove()
        if answered.shape != expected.shape:
            raise CompressionError(
                f"prune: the output would shrink from {list(expected.shape)} to "
                f"{list(answered.shape)}; name the layers that make it in `spare`"
            )
        if any(removal.mixed for removal in removed):
            return
        layers = dict(whole.named_modules())
        for removal in removed:
            for tensor, dimension in tensors_of(layers[removal.layer], removal.side):
                zero(tensor, dimension, removal.indices)
    wrong = _first_difference(whole, pruned, removed, example)
    if wrong is not None:
        raise CompressionError(
            f"prune: without the channels {wrong} answers otherwise than with their weights at "
            f"zero: {_ADVICE}"
        )


def _first_difference(
    whole: nn.Module, pruned: nn.Module, removed: Sequence[Removal],
    example: tuple[torch.Tensor, ...],
) -> str | None:  # fmt: skip
    """The first layer whose remaining channels differ between the two models, or None."""
    gone: dict[str, set[int]] = {}
    for removal in removed:
        if removal.side == "out":
            gone.setdefault(removal.layer, set()).update(removal.indices)
    expected = _outputs(whole, example)
    answered = dict(_outputs(pruned, example))
    for name, before in expected:
        left = [i for i in range(before.shape[-1]) if i not in gone.get(name, ())]
        wanted, after = before[..., left], answered.get(name)
        if after is None or after.shape != wanted.shape:
            return name
        if float((after - wanted).abs().max()) > _TOLERANCE * max(float(wanted.abs().max()), 1e-6):
            return name
    return None


def _outputs(
    module: nn.Module, example: tuple[torch.Tensor, ...]
) -> list[tuple[str, torch.Tensor]]:
    """What the prunable layers answer, in the order in which they run, channels last."""
    found: list[tuple[str, torch.Tensor]] = []

    def note(name: str, layer: nn.Module) -> RemovableHandle:
        channels = 1 if isinstance(layer, _ConvNd) else -1
        return layer.register_forward_hook(
            lambda _, __, output: found.append((name, output.movedim(channels, -1).clone()))
        )

    hooks = [note(name, layer) for name, layer in prunable(module).items()]
    try:
        with torch.no_grad():
            outputs = module(*example)
    finally:
        for hook in hooks:
            hook.remove()
    return [*found, ("the output", outputs)]


def _forget_last(running: list[str]) -> None:
    running.pop()


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def _layer_in(error: Exception, module: nn.Module) -> str:
    """Name of the innermost layer that the failing code was busy with, or empty."""
    names = {part: name for name, part in module.named_modules() if name}
    found, traceback = "", error.__traceback__
    while traceback is not None:
        for value in list(traceback.tb_frame.f_locals.values()):
            if isinstance(value, Node):
                found = _layer_before(value, names) or found
            elif isinstance(value, nn.Module):
                found = names.get(value, found)
        traceback = traceback.tb_next
    return found


def _layer_before(node: Node, names: Mapping[nn.Module, str]) -> str:
    """The nearest layer that the operation ``node`` takes its input from, itself if it is one."""
    todo, seen = [node], set()
    while todo:
        current = todo.pop(0)
        if isinstance(current.module, nn.Module) and current.module in names:
            return names[current.module]
        seen.add(id(current))
        todo += [each for each in current.inputs if id(each) not in seen]
    return ""

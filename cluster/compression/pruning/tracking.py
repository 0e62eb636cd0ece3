"""Verification of the traced channels, before any training.

Torch-Pruning traces channels through layers and common operations between them. If a model's
forward slices, pads, shuffles or reshapes channels in its own code, the graph may be wrong. The
result would be an obscure error elsewhere, or a wrong model. The first removal of every iteration
is verified, on samples and on noise.
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
    "the forward slices, pads, shuffles or reshapes channels in a way that cannot be traced. "
    "Name the layers around it in `spare`, move the operation into its own layer (a "
    "parameter-free module for a padded shortcut), or use method magnitude"
)

_TOLERANCE = 1e-3
"""Maximum relative difference of a layer's outputs, from sums in another order."""


@contextmanager
def layer_errors(module: nn.Module) -> Iterator[None]:
    """Convert errors of Torch-Pruning or the model to a CompressionError that names the layer."""
    try:
        yield
    except HeadraceError:
        raise
    # Torch-Pruning has no error classes: wrong indices, divisions and shapes raise anything.
    except Exception as error:
        layer = _layer_in(error, module)
        raise CompressionError(
            f"prune: the model cannot be pruned by channels{f' at {layer}' if layer else ''} "
            f"({type(error).__name__}: {_first_line(error)}): {_ADVICE}"
        ) from error


def verify(
    whole: nn.Module,
    pruned: nn.Module,
    removed: Sequence[Removal],
    probes: tuple[torch.Tensor, ...],
) -> None:
    """Check that ``pruned`` computes the same as ``whole`` with the removed weights at zero.

    ``whole``: a copy of the model before the removal, which is changed. If a layer depends on the
    number of channels, such as a layer normalization, only the output's shape is checked.
    CompressionError if the check fails.
    """
    with torch.no_grad():
        expected = whole(*probes)
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
            actual = pruned(*probes)
        # The model's code can raise anything on tensors of unexpected sizes.
        except Exception as error:
            layer = next((name for name in reversed(running) if name), "its forward")
            raise CompressionError(
                f"prune: without the removed channels the model fails in {layer} "
                f"({type(error).__name__}: {_first_line(error)}): {_ADVICE}"
            ) from error
        finally:
            for hook in hooks:
                hook.remove()
        if actual.shape != expected.shape:
            raise CompressionError(
                f"prune: the output would shrink from {list(expected.shape)} to "
                f"{list(actual.shape)}; name the layers of the output in `spare`"
            )
        if any(removal.mixed for removal in removed):
            return
        layers = dict(whole.named_modules())
        for removal in removed:
            for tensor, dimension in tensors_of(layers[removal.layer], removal.side):
                zero(tensor, dimension, removal.indices)
    wrong = _first_difference(whole, pruned, removed, probes)
    if wrong is not None:
        raise CompressionError(
            f"prune: without the removed channels {wrong} computes another result than with their "
            f"weights at zero: {_ADVICE}"
        )


def _first_difference(
    whole: nn.Module,
    pruned: nn.Module,
    removed: Sequence[Removal],
    probes: tuple[torch.Tensor, ...],
) -> str | None:
    """Return the first layer whose remaining channels differ between the two models, or None."""
    gone: dict[str, set[int]] = {}
    for removal in removed:
        if removal.side == "out":
            gone.setdefault(removal.layer, set()).update(removal.indices)
    expected = _outputs(whole, probes)
    actual = dict(_outputs(pruned, probes))
    for name, before in expected:
        remaining = [i for i in range(before.shape[-1]) if i not in gone.get(name, ())]
        target, after = before[..., remaining], actual.get(name)
        if after is None or after.shape != target.shape:
            return name
        if float((after - target).abs().max()) > _TOLERANCE * max(float(target.abs().max()), 1e-6):
            return name
    return None


def _outputs(module: nn.Module, probes: tuple[torch.Tensor, ...]) -> list[tuple[str, torch.Tensor]]:
    """Return outputs of the prunable layers, in the order of execution, channels last."""
    collected: list[tuple[str, torch.Tensor]] = []

    def note(name: str, layer: nn.Module) -> RemovableHandle:
        channels = 1 if isinstance(layer, _ConvNd) else -1
        return layer.register_forward_hook(
            lambda _, __, output: collected.append((name, output.movedim(channels, -1).clone()))
        )

    hooks = [note(name, layer) for name, layer in prunable(module).items()]
    try:
        with torch.no_grad():
            outputs = module(*probes)
    finally:
        for hook in hooks:
            hook.remove()
    return [*collected, ("the output", outputs)]


def _forget_last(running: list[str]) -> None:
    running.pop()


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def _layer_in(error: Exception, module: nn.Module) -> str:
    """Return the name of the innermost layer in the error's traceback, or empty."""
    names = {part: name for name, part in module.named_modules() if name}
    layer, traceback = "", error.__traceback__
    while traceback is not None:
        for value in list(traceback.tb_frame.f_locals.values()):
            if isinstance(value, Node):
                layer = _layer_before(value, names) or layer
            elif isinstance(value, nn.Module):
                layer = names.get(value, layer)
        traceback = traceback.tb_next
    return layer


def _layer_before(node: Node, names: Mapping[nn.Module, str]) -> str:
    """Return the nearest layer at or before the operation ``node``, or empty."""
    queue, seen = [node], set()
    while queue:
        current = queue.pop(0)
        if isinstance(current.module, nn.Module) and current.module in names:
            return names[current.module]
        seen.add(id(current))
        queue += [source for source in current.inputs if id(source) not in seen]
    return ""

"""Channels of layers that belong together: which there are, what each is worth, removing them.

    module + example ─→ ChannelPruner (Torch-Pruning's dependency graph)
        coupled_layers() ─→ one CoupledLayers per set of layers that can only shrink together
        remove(ratio)    ─→ the least important channels and heads go, in place

Fang et al. 2023, "DepGraph: Towards Any Structural Pruning". What layers depend on each other is
followed through autograd's graph, so every parameter must require a gradient while it is built.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch_pruning.ops import OPTYPE
from torch_pruning.pruner.algorithms.base_pruner import BasePruner
from torch_pruning.pruner.importance import (
    BNScaleImportance,
    GroupMagnitudeImportance,
    GroupTaylorImportance,
)

from cluster.compression.pruning.head import prunable
from cluster.models.rebuild import align, is_self_attention


def magnitude() -> Callable:
    """``Σ w²`` over a channel's weights in all coupled layers, over the layers' mean (Li et al.
    2017, "Pruning Filters"; grouped as in Fang et al. 2023, eq. 4)."""
    return GroupMagnitudeImportance(p=2)


def taylor() -> Callable:
    """``Σ |w · ∂loss/∂w|``: the change of the loss, to first order, if the channel's weights were
    zero (Molchanov et al. 2019, "Importance Estimation", eq. 8). Needs gradients."""
    return GroupTaylorImportance()


def batch_norm() -> Callable:
    """``|γ|``, the scale of the batch normalization behind the channel (Liu et al. 2017,
    "Network Slimming"). Layers without one are left whole."""
    return BNScaleImportance()


IMPORTANCES: dict[str, Callable[[], Callable]] = {
    "magnitude": magnitude,
    "taylor": taylor,
    "bn": batch_norm,
}


_MIXED = {OPTYPE.LN, OPTYPE.GN, OPTYPE.IN, OPTYPE.MHA, OPTYPE.LSTM, OPTYPE.PARAMETER}


@dataclass(frozen=True)
class Removal:
    """Channels that go from one side of one layer."""

    layer: str
    part: nn.Module | nn.Parameter
    side: Literal["in", "out"]
    """out, too, where a layer has as many outputs as inputs, each of its own input."""

    indices: list[int]
    mixed: bool
    """The layer's outputs depend on how many channels there are, as in a layer normalization."""


@dataclass(frozen=True)
class CoupledLayers:
    """Layers whose channels can only be removed together."""

    name: str
    """The first layer's, in the module's order."""

    channels: int
    weakest: Callable[[float], list[Removal]]
    """Share 0..1 → what removing that share of the channels, the least important, takes away."""


class ChannelPruner(BasePruner):
    """Torch-Pruning's pruner, leaving every layer ``round_to`` channels and one head at least.

    ``ignored``: layers whose outputs stay. The pruner remembers how many channels there were, so
    that rising ratios to :meth:`remove` mean the same share of them.
    """

    def __init__(
        self, module: nn.Module, example: tuple[torch.Tensor, ...], importance: str,
        ignored: Sequence[nn.Module], *, everywhere: bool, round_to: int,
    ) -> None:  # fmt: skip
        heads: dict[nn.Module, int] = {}
        groups: dict[nn.Module, int] = {}
        for part in module.modules():
            if is_self_attention(part):
                for name in ("query", "key", "value"):
                    heads[part.get_submodule(name)] = int(part.num_attention_heads)  # type: ignore[arg-type]
            elif isinstance(part, nn.MultiheadAttention):
                # It keeps its number of heads, so each of them gets narrower alike.
                groups[part] = part.num_heads
        with warnings.catch_warnings():
            # Parameters that stand beside layers are handled; the warning is for experts.
            warnings.filterwarnings("ignore", module="torch_pruning")
            # The dictionaries must be new ones: the defaults are shared by all pruners.
            super().__init__(
                module, example, IMPORTANCES[importance](), global_pruning=everywhere,
                pruning_ratio=0.0, head_pruning_ratio=0.0, ignored_layers=list(ignored),
                round_to=round_to, num_heads=heads, out_channel_groups=groups,
                in_channel_groups={}, pruning_ratio_dict={}, prune_num_heads=True,
                prune_head_dims=False,
            )  # fmt: skip

    def remove(self, ratio: float) -> list[Removal]:
        """Remove channels and heads in place until ``ratio``, 0..1, of those in the beginning are
        gone; returns what was removed, channels numbered as before."""
        self.current_step = 0
        self.per_step_pruning_ratio = [0.0, ratio]
        self.per_step_head_pruning_ratio = [0.0, ratio]
        removed: list[Removal] = []
        gone: dict[tuple[str, str], list[int]] = {}
        for group in self.step(interactive=True):
            for removal in self._removals(group):
                # Behind a concatenation several groups narrow one layer, one after the other.
                earlier = gone.setdefault((removal.layer, removal.side), [])
                indices = [_numbered_before(index, earlier) for index in removal.indices]
                removed.append(dataclasses.replace(removal, indices=indices))
                earlier[:] = sorted(earlier + indices)
            group.prune()
        align(self.model)
        return removed

    def coupled_layers(self) -> Iterator[CoupledLayers]:
        """Every set of layers that can lose channels, with one of the layers' importance."""
        for found in self.DG.get_all_groups(self.ignored_layers, tuple(self.root_module_types)):
            is_attention, layers = self._is_atten_group(found)
            group = self._downstream_node_as_root_if_attention(found) if is_attention else found
            importance = None if group is None else self.importance(group)
            if importance is None:
                continue
            heads = self.num_heads[layers[0]] if is_attention else 0
            yield CoupledLayers(
                self._first_layer(found),
                len(importance),
                self._weakest(group, importance, heads, self._get_channel_groups(group)),
            )

    def _first_layer(self, group: Any) -> str:
        coupled = {each.layer for each in self._removals(group) if each.side == "out"}
        return next(name for name in prunable(self.model) if name in coupled)

    def _weakest(
        self, group: Any, importance: torch.Tensor, heads: int, groups: int
    ) -> Callable[[float], list[Removal]]:
        def choose(share: float) -> list[Removal]:
            positions = torch.arange(len(importance))
            # Rows are what goes together: a head, the same channel of every group, a channel.
            rows = positions.view(heads, -1) if heads else positions.view(groups, -1).T
            order = importance.cpu()[rows].mean(dim=1).argsort()
            indices = rows[order[: int(share * len(rows))]].flatten().sort().values.tolist()
            if not indices:
                return []
            dependency = group[0].dep
            root, handler = dependency.target.module, dependency.handler
            return self._removals(self.DG.get_pruning_group(root, handler, indices))

        return choose

    def _removals(self, group: Any) -> list[Removal]:
        return [
            Removal(
                layer=self.DG._module2name[dependency.target.module],
                part=dependency.target.module,
                side="in" if dependency.handler.__name__ == "prune_in_channels" else "out",
                indices=list(indices),
                mixed=dependency.target.type in _MIXED,
            )
            for dependency, indices in group
            if isinstance(dependency.target.module, nn.Module | nn.Parameter)
            and dependency.target.module in self.DG._module2name
        ]

    def estimate_importance(self, group: Any) -> torch.Tensor | None:
        """As Torch-Pruning's, but channels that a layer cannot do without count as infinite:
        a layer whose channels all fell below the threshold would be skipped, and left whole."""
        importance = super().estimate_importance(group)
        if importance is None:
            return None
        importance = importance.clone()
        is_attention, layers = self._is_atten_group(group)
        if is_attention:
            by_head = importance.view(self.num_heads[layers[0]], -1)
            by_head[by_head.mean(dim=1).argmax()] = math.inf
        else:
            by_group = importance.view(self._get_channel_groups(group), -1)
            groups, size = by_group.shape
            least = min(math.lcm(self.round_to, groups) // groups, size)
            by_group[:, by_group.mean(dim=0).topk(least).indices] = math.inf
        return importance

    def get_target_head_pruning_ratio(self, module: nn.Module) -> float:
        """Of the heads that are left, as Torch-Pruning applies it to them."""
        ratio = super().get_target_head_pruning_ratio(module)
        if self.global_pruning:
            return float(ratio)
        left = self.num_heads[module]
        surplus = min(left - round(self.init_num_heads[module] * (1 - ratio)), left - 1)
        return max(surplus - 0.5, 0) / left  # it rounds up

    def _is_atten_group(self, group: Any) -> Any:
        self._at = group  # Torch-Pruning asks this of each group before it rounds
        return super()._is_atten_group(group)

    def _round_to(self, n_pruned: int, current_channels: int, round_to: int) -> int:
        """To the nearest multiple: rounding down alone would remove up to twice the ratio.

        ``n_pruned``, and the result, are per group of channels; the multiple is of all of them.
        """
        groups = self._get_channel_groups(self._at)
        unit = math.lcm(round_to, groups)
        left = max(round((current_channels - n_pruned * groups) / unit), 1) * unit
        return max(current_channels - left, 0) // groups


def _numbered_before(index: int, gone: Sequence[int]) -> int:
    """The number a channel had before those in ``gone``, ascending, were removed."""
    for each in gone:
        if each > index:
            break
        index += 1
    return index


@contextmanager
def zeroed(removals: Sequence[Removal]) -> Iterator[None]:
    """What the removals would take away is zero until the end."""
    before: list[tuple[torch.Tensor, torch.Tensor]] = []
    try:
        for removal in removals:
            for tensor, dimension in tensors_of(removal.part, removal.side):
                before.append((tensor, tensor.clone()))
                zero(tensor, dimension, removal.indices)
        yield
    finally:
        for tensor, values in reversed(before):
            tensor.copy_(values)


def zero(tensor: torch.Tensor, dimension: int, indices: Sequence[int]) -> None:
    """Set ``indices`` along ``dimension`` to zero, in place."""
    tensor.index_fill_(dimension, torch.tensor(indices, dtype=torch.long), 0)


def tensors_of(
    part: nn.Module | nn.Parameter, side: Literal["in", "out"]
) -> list[tuple[torch.Tensor, int]]:
    """The tensors of a layer that hold its channels on one side, each with the dimension; zeros
    there are as good as a removal. Of other layers none: zeros before them do it."""
    found: list[tuple[torch.Tensor | None, int]] = []
    if isinstance(part, _ConvNd | nn.Linear):
        transposed = isinstance(part, _ConvNd) and part.transposed
        if side == "out":
            found = [(part.weight, int(transposed)), (part.bias, 0)]
        elif not isinstance(part, _ConvNd) or part.groups == 1:
            found = [(part.weight, int(not transposed))]
    elif isinstance(part, _BatchNorm | nn.LayerNorm | nn.GroupNorm):
        found = [(part.weight, 0), (part.bias, 0)]
    elif isinstance(part, nn.Embedding):
        found = [(part.weight, 1)]
    return [(tensor.data, dimension) for tensor, dimension in found if tensor is not None]

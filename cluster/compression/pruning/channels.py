"""Channels of coupled layers: their dependencies, importance and removal.

    module + example ─→ ChannelPruner (Torch-Pruning's dependency graph)
        coupled_layers() ─→ one CoupledLayers per set of layers that can only shrink together
        remove(ratio)    ─→ removes the least important channels and heads, in place

Fang et al. 2023, "DepGraph: Towards Any Structural Pruning". Dependencies are traced through
autograd's graph, so every parameter must require a gradient while the graph is built.
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
    """Return ``Σ w²`` over a channel's weights in all coupled layers, over the layers' mean.

    Li et al. 2017, "Pruning Filters"; grouped as in Fang et al. 2023, eq. 4.
    """
    return GroupMagnitudeImportance(p=2)


def taylor() -> Callable:
    """Return ``Σ |w · ∂loss/∂w|``, the first-order change of the loss for zero weights.

    Molchanov et al. 2019, "Importance Estimation", eq. 8. It needs gradients.
    """
    return GroupTaylorImportance()


def batch_norm() -> Callable:
    """Return ``|γ|``, the scale of the batch normalization behind the channel.

    Liu et al. 2017, "Network Slimming". Layers without batch normalization are not pruned.
    """
    return BNScaleImportance()


IMPORTANCES: dict[str, Callable[[], Callable]] = {
    "magnitude": magnitude,
    "taylor": taylor,
    "bn": batch_norm,
}


_MIXED = {OPTYPE.LN, OPTYPE.GN, OPTYPE.IN, OPTYPE.MHA, OPTYPE.LSTM, OPTYPE.PARAMETER}


@dataclass(frozen=True)
class Removal:
    """Removed channels of one side of one layer."""

    layer: str
    part: nn.Module | nn.Parameter
    side: Literal["in", "out"]
    """out also for a layer whose outputs depend on one input each."""

    indices: list[int]
    mixed: bool
    """Whether outputs depend on the number of channels, as in a layer normalization."""


@dataclass(frozen=True)
class CoupledLayers:
    """Layers whose channels can only be removed together."""

    name: str
    """Name of the first layer, in the module's order."""

    channels: int
    weakest: Callable[[float], list[Removal]]
    """Share 0..1 → removals for that share of the channels, the least important."""


class ChannelPruner(BasePruner):
    """Torch-Pruning's pruner, which leaves every layer at least ``round_to`` channels and one head.

    ``ignored``: layers whose outputs stay. The pruner stores the initial numbers of channels, so
    successive ratios of :meth:`remove` are shares of the initial channels.
    """

    def __init__(
        self,
        module: nn.Module,
        example: tuple[torch.Tensor, ...],
        importance: str,
        ignored: Sequence[nn.Module],
        *,
        everywhere: bool,
        round_to: int,
    ) -> None:
        heads: dict[nn.Module, int] = {}
        groups: dict[nn.Module, int] = {}
        for part in module.modules():
            if is_self_attention(part):
                for name in ("query", "key", "value"):
                    heads[part.get_submodule(name)] = int(part.num_attention_heads)  # type: ignore[arg-type]
            elif isinstance(part, nn.MultiheadAttention):
                # It keeps its number of heads, so all of them get narrower equally.
                groups[part] = part.num_heads
        with warnings.catch_warnings():
            # Parameters outside layers are handled; the warning does not apply.
            warnings.filterwarnings("ignore", module="torch_pruning")
            # The dictionaries must be new: all pruners share the defaults.
            super().__init__(
                module,
                example,
                IMPORTANCES[importance](),
                global_pruning=everywhere,
                pruning_ratio=0.0,
                head_pruning_ratio=0.0,
                ignored_layers=list(ignored),
                round_to=round_to,
                num_heads=heads,
                out_channel_groups=groups,
                in_channel_groups={},
                pruning_ratio_dict={},
                prune_num_heads=True,
                prune_head_dims=False,
            )

    def remove(self, ratio: float) -> list[Removal]:
        """Remove channels and heads in place, up to ``ratio``, 0..1, of the initial ones.

        Return the removals, with channels numbered as before.
        """
        self.current_step = 0
        self.per_step_pruning_ratio = [0.0, ratio]
        self.per_step_head_pruning_ratio = [0.0, ratio]
        removed: list[Removal] = []
        gone: dict[tuple[str, str], list[int]] = {}
        for group in self.step(interactive=True):
            for removal in self._removals(group):
                # Behind a concatenation several groups narrow one layer in succession.
                earlier = gone.setdefault((removal.layer, removal.side), [])
                indices = [_numbered_before(index, earlier) for index in removal.indices]
                removed.append(dataclasses.replace(removal, indices=indices))
                earlier[:] = sorted(earlier + indices)
            group.prune()
        align(self.model)
        return removed

    def coupled_layers(self) -> Iterator[CoupledLayers]:
        """Yield every set of layers that can lose channels."""
        for whole in self.DG.get_all_groups(self.ignored_layers, tuple(self.root_module_types)):
            is_attention, layers = self._is_atten_group(whole)
            group = self._downstream_node_as_root_if_attention(whole) if is_attention else whole
            importance = None if group is None else self.importance(group)
            if importance is None:
                continue
            heads = self.num_heads[layers[0]] if is_attention else 0
            yield CoupledLayers(
                self._first_layer(whole),
                len(importance),
                self._weakest(group, importance, heads, self._get_channel_groups(group)),
            )

    def _first_layer(self, group: Any) -> str:
        coupled = {removal.layer for removal in self._removals(group) if removal.side == "out"}
        return next(name for name in prunable(self.model) if name in coupled)

    def _weakest(
        self, group: Any, importance: torch.Tensor, heads: int, groups: int
    ) -> Callable[[float], list[Removal]]:
        def choose(share: float) -> list[Removal]:
            positions = torch.arange(len(importance))
            # A row is removed as a whole: a head, the same channel of every group, or a channel.
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
        """Return Torch-Pruning's importance, but infinite for the minimum channels of a layer.

        Otherwise a layer with all channels below the threshold would be skipped and not pruned.
        """
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
        """Return the ratio of the remaining heads, to which Torch-Pruning applies it."""
        ratio = super().get_target_head_pruning_ratio(module)
        if self.global_pruning:
            return float(ratio)
        heads = self.num_heads[module]
        surplus = min(heads - round(self.init_num_heads[module] * (1 - ratio)), heads - 1)
        return max(surplus - 0.5, 0) / heads  # Torch-Pruning rounds up

    def _is_atten_group(self, group: Any) -> Any:
        self._current_group = group  # Torch-Pruning calls this for each group before it rounds
        return super()._is_atten_group(group)

    def _round_to(self, n_pruned: int, current_channels: int, round_to: int) -> int:
        """Round to the nearest multiple: rounding down alone would remove up to twice the ratio.

        ``n_pruned``, and the result, are per group of channels; the multiple is of all of them.
        """
        groups = self._get_channel_groups(self._current_group)
        unit = math.lcm(round_to, groups)
        remaining = max(round((current_channels - n_pruned * groups) / unit), 1) * unit
        return max(current_channels - remaining, 0) // groups


def _numbered_before(index: int, gone: Sequence[int]) -> int:
    """Return a channel's number before the channels in ``gone``, ascending, were removed."""
    for removed in gone:
        if removed > index:
            break
        index += 1
    return index


@contextmanager
def zeroed(removals: Sequence[Removal]) -> Iterator[None]:
    """Set the channels of the removals to zero within the context."""
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
    """Return the tensors with a layer's channels on one side, each with their dimension.

    Zeros in them are equivalent to a removal. Other layers have none: zeros before them suffice.
    """
    tensors: list[tuple[torch.Tensor | None, int]] = []
    if isinstance(part, _ConvNd | nn.Linear):
        transposed = isinstance(part, _ConvNd) and part.transposed
        if side == "out":
            tensors = [(part.weight, int(transposed)), (part.bias, 0)]
        elif not isinstance(part, _ConvNd) or part.groups == 1:
            tensors = [(part.weight, int(not transposed))]
    elif isinstance(part, _BatchNorm | nn.LayerNorm | nn.GroupNorm):
        tensors = [(part.weight, 0), (part.bias, 0)]
    elif isinstance(part, nn.Embedding):
        tensors = [(part.weight, 1)]
    return [(tensor.data, dimension) for tensor, dimension in tensors if tensor is not None]

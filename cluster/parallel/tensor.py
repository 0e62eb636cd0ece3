"""Tensor parallelism: the same module with a slice of its weights, one for each rank.

    module → plan_for → TensorPlan: which layers are cut, by outputs or by inputs
    module, plan, rank → shard_module → the rank's module, which sums with the other ranks' twice
                                        in each transformer layer: headrace::all_reduce

Embeddings, norms and heads stay whole on every rank. Ranks compute the same between two sums, so
all of them answer, and equally.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from cluster.config.parallel import Sliced
from cluster.errors import PlanError
from cluster.parallel import slices
from cluster.parallel.families import FAMILIES, MULTIHEAD, Family
from cluster.program import collective

MOST_RANKS = 64


@dataclass(frozen=True)
class TensorPlan:
    """How one module is cut, whatever the degree; the names are the module's own."""

    family: str
    layers: Mapping[str, Sliced]
    """Linear layers → by what they are cut."""

    attentions: tuple[str, ...] = ()
    """``nn.MultiheadAttention`` modules: cut between heads, both of their projections."""

    heads: Mapping[str, int] = field(default_factory=dict)
    """Column layers and ``attentions`` → their heads, which stay whole."""

    fused: Mapping[str, int] = field(default_factory=dict)
    """Column layers that hold several matrices side by side → how many."""

    divided: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Modules → their attributes that are divided by the degree."""

    def as_dtensor_plan(self) -> dict[str, Any]:
        """The same as ``torch.distributed.tensor.parallel.parallelize_module`` takes it.

        PlanError for fused projections, which its styles would cut across: query from key.
        """
        from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel

        if across := [*self.fused, *self.attentions]:
            raise PlanError(
                f"{across[0]} holds query, key and value in one weight, which parallelize_module "
                "cannot cut between heads; use shard_module"
            )
        styles = {"column": ColwiseParallel, "row": RowwiseParallel}
        return {name: styles[style]() for name, style in self.layers.items()}


def plan_for(module: nn.Module, patterns: Mapping[str, Sliced] | None = None) -> TensorPlan:
    """The plan of the module's family, or the one that ``patterns`` give.

    ``patterns``: names of linear layers, whole or their last parts, with wildcards → column or
    row. A forward of one's own then has to take the number of heads from the tensors' shape.
    Raises PlanError if no family fits, or a pattern matches no layer that can be cut.
    """
    plan = _by_patterns(module, patterns) if patterns is not None else _by_family(module)
    for name in (*plan.layers, *plan.attentions):
        if reason := slices.refusal(module.get_submodule(name)):
            raise PlanError(f"{name} cannot be cut into slices: {reason}")
    _refuse_shared(module, plan)
    return plan


def shard_module(module: nn.Module, plan: TensorPlan, rank: int, degree: int) -> nn.Module:
    """What ``rank`` of ``degree`` computes: takes the same inputs and gives the same outputs.

    ``module`` stays as it is; what is cut away is never copied. The result runs inside
    ``collective.using``, or compiled with a group.
    Raises PlanError for a degree that the heads or features of a layer cannot be divided by.
    """
    if not 0 <= rank < degree:
        raise PlanError(f"rank {rank} of {degree}: ranks are 0 to the degree less 1")
    refuse_degree(module, plan, degree)
    collective.register()
    share = slices.Share(rank, degree)
    # What is in a deepcopy's memo takes the place of what would be copied, at all its names.
    replaced: dict[int, Any] = {}
    for name, style in plan.layers.items():
        layer = module.get_submodule(name)
        own = slices.Share(rank, degree, plan.fused.get(name, 1))
        replaced[id(layer)] = slices.sliced(layer, style, own)
    for name in plan.attentions:
        attention: Any = module.get_submodule(name)
        replaced[id(attention)] = slices.SlicedAttention(attention, share)
    new = copy.deepcopy(module, replaced)
    for name, attributes in plan.divided.items():
        owner = new.get_submodule(name)
        for attribute in attributes:
            setattr(owner, attribute, getattr(owner, attribute) // degree)
    return new.eval()


def refuse_degree(module: nn.Module, plan: TensorPlan, degree: int) -> None:
    """PlanError if the module cannot be cut into ``degree`` slices, naming those that it can."""
    fitting = [d for d in range(2, MOST_RANKS + 1) if _obstacle(module, plan, d) is None]
    if degree != 1 and degree not in fitting:
        obstacle = _obstacle(module, plan, degree) or f"at most {MOST_RANKS} ranks are possible"
        raise PlanError(
            f"tensor={degree} does not fit this model: {obstacle}. "
            f"These do: {', '.join(map(str, fitting)) or 'none'}"
        )


def fits(module: nn.Module, plan: TensorPlan, degree: int) -> bool:
    """Whether the module can be cut into so many slices."""
    return _obstacle(module, plan, degree) is None


def _obstacle(module: nn.Module, plan: TensorPlan, degree: int) -> str | None:
    """The first layer that cannot be cut into so many parts, and why."""
    for name, heads in plan.heads.items():
        if heads % degree:
            return f"{name} has {heads} heads"
    for name, style in plan.layers.items():
        layer = module.get_submodule(name)
        inputs, outputs = slices.sizes(layer)
        each = outputs // plan.fused.get(name, 1)
        if style == "column" and each % degree:
            return f"{name} has {each} outputs"
        if style == "row" and inputs % degree:
            return f"{name} has {inputs} inputs"
        most = slices.smallest_inputs(layer)
        if style == "row" and inputs // degree % most:
            return f"{name} has {inputs} int8 inputs, and each rank's must be a multiple of {most}"
    return None


def _by_patterns(module: nn.Module, patterns: Mapping[str, Sliced]) -> TensorPlan:
    layers: dict[str, Sliced] = {}
    for pattern, style in patterns.items():
        found = [
            name
            for name, layer in module.named_modules()
            if fnmatchcase(f".{name}", f"*.{pattern}")
            and not isinstance(layer, nn.MultiheadAttention)
            and slices.refusal(layer) is None
        ]
        if not found:
            raise PlanError(
                f"the pattern {pattern!r} matches no layer that can be cut; "
                f"{_linear_layers(module)}"
            )
        for name in found:
            if layers.setdefault(name, style) != style:
                raise PlanError(f"the patterns make {name} both column and row; make them narrower")
    if set(layers.values()) != {"column", "row"}:
        raise PlanError(
            "the patterns name layers of one kind only; every row layer takes as its inputs what "
            "column layers before it made, so both are needed"
        )
    return TensorPlan("its own patterns", layers)


def _by_family(module: nn.Module) -> TensorPlan:
    for family in FAMILIES:
        if (plan := _fitting(module, family)) is not None:
            return plan
    if any(isinstance(part, torch.fx.GraphModule) for part in module.modules()):
        raise PlanError(
            "this model is one graph, as static_int8 leaves it, and has no layers to cut; quantize "
            "with dynamic_int8, weight_only_int8 or bf16, or cut it into pipeline stages"
        )
    names = ", ".join(family.name for family in FAMILIES)
    raise PlanError(
        f"no ready plan for tensor slices fits this model (there are those of {names}); write "
        'slices: patterns of layer names such as {"*.fc1": column, "*.fc2": row}, where a row '
        f"layer takes what a column layer made. {_linear_layers(module)}"
    )


def _fitting(module: nn.Module, family: Family) -> TensorPlan | None:
    # Decoders' attention to an encoder is named like the rest, and stays whole.
    modules = {n: m for n, m in module.named_modules() if ".crossattention." not in f".{n}."}
    layers: dict[str, Sliced] = {}
    for pattern, style in family.layers.items():
        found = [name for name in modules if fnmatchcase(f".{name}", pattern)]
        if not found:
            return None
        layers |= dict.fromkeys(found, style)
    if family.attention == MULTIHEAD:
        own = {n: m for n, m in modules.items() if isinstance(m, nn.MultiheadAttention)}
        if not own:
            return None
        heads = {name: attention.num_heads for name, attention in own.items()}
        return TensorPlan(family.name, layers, attentions=tuple(own), heads=heads)
    fused = {
        name: count
        for pattern, count in family.fused.items()
        for name in layers
        if fnmatchcase(f".{name}", pattern)
    }
    heads, divided = {}, {}
    for name, style in layers.items():
        owner, _, _ = name.rpartition(".")
        if style == "row" or not fnmatchcase(f".{owner}", family.attention):
            continue
        if (head_dim := _head_dim(modules[owner])) is None:
            return None
        _, outputs = slices.sizes(modules[name])
        heads[name] = outputs // fused.get(name, 1) // head_dim
        if _has_weights_per_head(modules[owner], owner, layers, heads[name], head_dim):
            return None
        divided[owner] = tuple(each for each in family.divided if hasattr(modules[owner], each))
    return TensorPlan(family.name, layers, heads=heads, fused=fused, divided=divided)


def _head_dim(attention: nn.Module) -> int | None:
    for name in ("attention_head_size", "head_dim"):
        if isinstance(found := getattr(attention, name, None), int):
            return found
    return None


def _has_weights_per_head(
    attention: nn.Module, name: str, layers: Mapping[str, Sliced], heads: int, head_dim: int
) -> bool:
    """Whether something besides the layers that are cut belongs to single heads.

    Such as a table of position biases, or a norm over all heads: it would need cutting too.
    """
    return any(
        {heads, heads * head_dim} & set(parameter.shape)
        for inner, part in attention.named_modules(prefix=name)
        if not any(f"{inner}.".startswith(f"{layer}.") for layer in layers)
        for parameter in part.parameters(recurse=False)
    )


def _refuse_shared(module: nn.Module, plan: TensorPlan) -> None:
    """PlanError where a layer that is cut shares its weight with another."""
    holders: dict[int, str] = {}
    cut = {*plan.layers, *plan.attentions}
    for name, part in module.named_modules():
        for parameter in part.parameters(recurse=False):
            first = holders.setdefault(id(parameter), name)
            if first != name and cut & {first, name}:
                raise PlanError(
                    f"{first} and {name} share a weight, so it cannot be cut; leave both out of "
                    "the patterns, or give each its own"
                )


def _linear_layers(module: nn.Module) -> str:
    names = [name for name, part in module.named_modules() if isinstance(part, nn.Linear)]
    shown = ", ".join(names[:6]) + (" …" if len(names) > 6 else "")
    return f"its linear layers are {shown}" if names else "it has no linear layers"

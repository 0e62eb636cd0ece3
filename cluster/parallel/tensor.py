"""Tensor parallelism: copies of a module, each with one rank's slice of the weights.

    module → plan_for → TensorPlan: layers to cut, by outputs or by inputs
    module, plan, rank → shard_module → the rank's module, with two all-reduces per transformer
                                        layer: headrace::all_reduce

Embeddings, norms and heads stay whole on every rank. Ranks compute the same between two sums, so
all of them return the same answer.
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

MAX_RANKS = 64


@dataclass(frozen=True)
class TensorPlan:
    """Cut of one module, independent of the degree; names are the module's own."""

    family: str
    layers: Mapping[str, Sliced]
    """Linear layers → dimension of the cut."""

    attentions: tuple[str, ...] = ()
    """``nn.MultiheadAttention`` modules: both of their projections are cut between heads."""

    heads: Mapping[str, int] = field(default_factory=dict)
    """Column layers and ``attentions`` → number of heads, which stay whole."""

    fused: Mapping[str, int] = field(default_factory=dict)
    """Column layers with several matrices side by side → number of matrices."""

    divided: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Modules → attributes that are divided by the degree."""


def plan_for(module: nn.Module, patterns: Mapping[str, Sliced] | None = None) -> TensorPlan:
    """Return the plan of the module's family, or the plan of ``patterns``.

    ``patterns``: names of linear layers, or their last parts, with wildcards → column or row. A
    custom forward must then derive the number of heads from the tensors' shape. Raises PlanError
    if no family matches, or a pattern matches no layer that can be cut.
    """
    plan = _by_patterns(module, patterns) if patterns is not None else _by_family(module)
    for name in (*plan.layers, *plan.attentions):
        if reason := slices.refusal(module.get_submodule(name)):
            raise PlanError(f"{name} cannot be cut into slices: {reason}")
    _refuse_shared(module, plan)
    return plan


def shard_module(module: nn.Module, plan: TensorPlan, rank: int, degree: int) -> nn.Module:
    """Return the module of one rank: same inputs, same outputs.

    ``module`` is unchanged, and weights of other ranks are never copied. The result runs inside
    ``collective.using``, or compiled with a group. Raises PlanError for a degree that does not
    divide the heads or features of a layer.
    """
    if not 0 <= rank < degree:
        raise PlanError(f"rank {rank} of {degree}: expected 0 to {degree - 1}")
    check_degree(module, plan, degree)
    collective.register()
    share = slices.Share(rank, degree)
    # Entries of deepcopy's memo replace the originals, under all their names.
    replaced: dict[int, Any] = {}
    for name, style in plan.layers.items():
        layer = module.get_submodule(name)
        layer_share = slices.Share(rank, degree, plan.fused.get(name, 1))
        replaced[id(layer)] = slices.slice_layer(layer, style, layer_share)
    for name in plan.attentions:
        attention: Any = module.get_submodule(name)
        replaced[id(attention)] = slices.SlicedAttention(attention, share)
    new = copy.deepcopy(module, replaced)
    for name, attributes in plan.divided.items():
        owner = new.get_submodule(name)
        for attribute in attributes:
            setattr(owner, attribute, getattr(owner, attribute) // degree)
    return new.eval()


def check_degree(module: nn.Module, plan: TensorPlan, degree: int) -> None:
    """Raise PlanError, with the possible degrees, if ``degree`` does not divide the module."""
    fitting = [d for d in range(2, MAX_RANKS + 1) if _obstacle(module, plan, d) is None]
    if degree != 1 and degree not in fitting:
        obstacle = _obstacle(module, plan, degree) or f"at most {MAX_RANKS} ranks are possible"
        raise PlanError(
            f"tensor={degree} does not divide this model: {obstacle}. "
            f"Possible degrees: {', '.join(map(str, fitting)) or 'none'}"
        )


def fits(module: nn.Module, plan: TensorPlan, degree: int) -> bool:
    """Whether the module can be cut into ``degree`` slices."""
    return _obstacle(module, plan, degree) is None


def _obstacle(module: nn.Module, plan: TensorPlan, degree: int) -> str | None:
    """Return the first layer that cannot be cut into ``degree`` parts, with the reason, or None."""
    for name, heads in plan.heads.items():
        if heads % degree:
            return f"{name} has {heads} heads"
    for name, style in plan.layers.items():
        layer = module.get_submodule(name)
        inputs, outputs = slices.sizes(layer)
        per_matrix = outputs // plan.fused.get(name, 1)
        if style == "column" and per_matrix % degree:
            return f"{name} has {per_matrix} outputs"
        if style == "row" and inputs % degree:
            return f"{name} has {inputs} inputs"
        multiple = slices.input_multiple(layer)
        if style == "row" and inputs // degree % multiple:
            return (
                f"{name} has {inputs} int8 inputs, and each rank's must be a multiple of {multiple}"
            )
    return None


def _by_patterns(module: nn.Module, patterns: Mapping[str, Sliced]) -> TensorPlan:
    layers: dict[str, Sliced] = {}
    for pattern, style in patterns.items():
        names = [
            name
            for name, layer in module.named_modules()
            if fnmatchcase(f".{name}", f"*.{pattern}")
            and not isinstance(layer, nn.MultiheadAttention)
            and slices.refusal(layer) is None
        ]
        if not names:
            raise PlanError(
                f"the pattern {pattern!r} matches no layer that can be cut; "
                f"{_linear_layers(module)}"
            )
        for name in names:
            if layers.setdefault(name, style) != style:
                raise PlanError(f"the patterns match {name} as both column and row; narrow them")
    if set(layers.values()) != {"column", "row"}:
        raise PlanError(
            "the patterns match layers of one kind only; the inputs of row layers are the outputs "
            "of column layers, so both kinds are needed"
        )
    return TensorPlan("custom patterns", layers)


def _by_family(module: nn.Module) -> TensorPlan:
    for family in FAMILIES:
        if (plan := _plan_of_family(module, family)) is not None:
            return plan
    if any(isinstance(part, torch.fx.GraphModule) for part in module.modules()):
        raise PlanError(
            "this model is one graph, as produced by static_int8, without layers to cut; quantize "
            "with dynamic_int8, weight_only_int8 or bf16, or cut it into pipeline stages"
        )
    names = ", ".join(family.name for family in FAMILIES)
    raise PlanError(
        f"no built-in plan for tensor slices matches this model (families: {names}); write "
        'slices: patterns of layer names such as {"*.fc1": column, "*.fc2": row}, where the '
        f"inputs of a row layer are outputs of a column layer. {_linear_layers(module)}"
    )


def _plan_of_family(module: nn.Module, family: Family) -> TensorPlan | None:
    # Cross-attention has matching names, but stays whole.
    modules = {n: m for n, m in module.named_modules() if ".crossattention." not in f".{n}."}
    layers: dict[str, Sliced] = {}
    for pattern, style in family.layers.items():
        names = [name for name in modules if fnmatchcase(f".{name}", pattern)]
        if not names:
            return None
        layers |= dict.fromkeys(names, style)
    if family.attention == MULTIHEAD:
        attentions = {n: m for n, m in modules.items() if isinstance(m, nn.MultiheadAttention)}
        if not attentions:
            return None
        heads = {name: attention.num_heads for name, attention in attentions.items()}
        return TensorPlan(family.name, layers, attentions=tuple(attentions), heads=heads)
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
        divided[owner] = tuple(name for name in family.divided if hasattr(modules[owner], name))
    return TensorPlan(family.name, layers, heads=heads, fused=fused, divided=divided)


def _head_dim(attention: nn.Module) -> int | None:
    for name in ("attention_head_size", "head_dim"):
        if isinstance(head_dim := getattr(attention, name, None), int):
            return head_dim
    return None


def _has_weights_per_head(
    attention: nn.Module, name: str, layers: Mapping[str, Sliced], heads: int, head_dim: int
) -> bool:
    """Whether parameters outside the cut layers belong to single heads.

    Examples are a table of position biases, or a norm over all heads: these would need cutting too.
    """
    return any(
        {heads, heads * head_dim} & set(parameter.shape)
        for inner, part in attention.named_modules(prefix=name)
        if not any(f"{inner}.".startswith(f"{layer}.") for layer in layers)
        for parameter in part.parameters(recurse=False)
    )


def _refuse_shared(module: nn.Module, plan: TensorPlan) -> None:
    """Raise PlanError if a layer to cut shares its weight with another layer."""
    holders: dict[int, str] = {}
    cut = {*plan.layers, *plan.attentions}
    for name, part in module.named_modules():
        for parameter in part.parameters(recurse=False):
            first = holders.setdefault(id(parameter), name)
            if first != name and cut & {first, name}:
                raise PlanError(
                    f"{first} and {name} share a weight, which cannot be cut; leave both out of "
                    "the patterns, or separate their weights"
                )


def _linear_layers(module: nn.Module) -> str:
    names = [name for name, part in module.named_modules() if isinstance(part, nn.Linear)]
    shown = ", ".join(names[:6]) + (" …" if len(names) > 6 else "")
    return f"its linear layers are {shown}" if names else "it has no linear layers"

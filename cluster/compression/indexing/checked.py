"""Modules whose indices cannot leave their tables.

    module → graph → operands ─┬─ elements of inputs → Limits: a request is checked before it runs
                               └─ computed indices   → CheckedModule: its graph has for each
          index → clamped → operator                   an output more, the index out of range
                └→ outside? → worst of each item → output [batch]

Compiled code ends its process on an index out of range, or reads beyond the table and answers with
other numbers. The checks are part of the graph, so that every compiler builds them in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node
from torch.utils._pytree import tree_leaves

from cluster.artifact.entries import IndexCheck
from cluster.compression.export import exported
from cluster.compression.indexing.dataflow import reads_number, sources_of, varying
from cluster.compression.indexing.elements import Elements
from cluster.compression.indexing.limits import Limits
from cluster.compression.indexing.operators import (
    Divisor,
    Operand,
    arguments,
    bounds_of,
    operands,
    unknown_operand,
)
from cluster.parallel.graph import operator_name
from cluster.tensors import TensorSpec


class CheckedModule(torch.nn.Module):
    """Module that returns, after its outputs, int64 ``[batch]`` for each of ``checks``.

    The value is 0, or tells an index of the item that is out of range (see ``_worst``); the outputs
    of such an item are computed with another index.
    """

    def __init__(self, graph: GraphModule, checks: tuple[IndexCheck, ...]) -> None:
        super().__init__()
        self.body = graph  # a GraphModule, which torch.export makes of this, has a `graph` already
        self.checks = checks

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        outputs: tuple[torch.Tensor, ...] = self.body(*inputs)
        return outputs


def checks_of(module: torch.nn.Module) -> tuple[IndexCheck, ...]:
    """Return the checks that a module computes."""
    return module.checks if isinstance(module, CheckedModule) else ()


@dataclass(frozen=True)
class Checked:
    """Module with its checks, and the indices for which these do not suffice."""

    module: torch.nn.Module
    unchecked: str | None = None
    """Index that cannot be checked; None without one."""

    wide: str | None = None
    """Computed index that needs integers of more than 32 bits; None without one."""


def checked(
    module: torch.nn.Module,
    inputs: Sequence[TensorSpec],
    limits: Limits,
    batch: int | None = None,
    *,
    narrow: bool = False,
) -> Checked:
    """Return the module with checks of its computed indices.

    ``limits``: ranges that requests are checked for before they run. ``narrow``: add those of the
    module to them; otherwise an element with a wider range is checked as a computed index is.
    ``batch``: the only batch size; None: dynamic. CompressionError if the module cannot be
    exported.
    """
    graph = _graph_of(module, tuple(inputs), batch)
    nodes = list(graph.graph.nodes)
    names = {
        node: spec.name
        for node, spec in zip([n for n in nodes if n.op == "placeholder"], inputs, strict=True)
    }
    dependent = varying(graph.graph)
    computed: list[Operand | Divisor] = []
    elements = Elements(graph, inputs, batch or 2)
    for node in nodes:
        for operand in operands(node):
            if operand.indices not in dependent:
                continue  # a constant, which the probe of the model has read
            ranges = elements.of(operand) if isinstance(operand, Operand) else None
            if ranges is not None and narrow:
                limits.add(*ranges)
            elif ranges is None or not limits.allow(*ranges):
                computed.append(operand)
    result = module if not computed else _with_checks(graph, computed, names)
    small = {node for node, name in names.items() if limits.are_small(name)}
    return Checked(result, _unchecked(graph, dependent), _wide(computed, small))


def _graph_of(
    module: torch.nn.Module, inputs: tuple[TensorSpec, ...], batch: int | None
) -> GraphModule:
    if not isinstance(module, GraphModule):  # torchao's graph has no modes, and raises an error
        module = module.eval()
    program = exported(module, inputs, strict=False, batch=batch)
    if any("functorch" in str(node.target.__module__) for node in _called(program.graph)):
        program = program.run_decompositions({})  # inside torch.vmap a tensor has no batch
    graph: GraphModule = program.module(check_guards=False)
    return graph


def _called(graph: Graph) -> list[Node]:
    return [node for node in graph.nodes if node.op == "call_function"]


def _unchecked(graph: GraphModule, dependent: set[Node]) -> str | None:
    """Return an index that no check covers, or None."""
    for node in graph.graph.nodes:
        name = operator_name(node)
        if reads_number(node, dependent):
            return f"{node.name} reads a number out of a tensor that depends on the inputs"
        if isinstance(node.target, torch._ops.HigherOrderOperator) and _indexes(graph, node):
            return f"{name} has an operator with indices in one of its branches"
        argument = unknown_operand(node)
        if argument is not None and dependent.intersection(node.all_input_nodes):
            return f"operator {name} may read its argument {argument} as indices"
        if name.endswith("embedding_bag") and dependent.intersection(node.all_input_nodes[2:3]):
            return f"the offsets of {name} depend on the inputs"
    return None


def _indexes(graph: GraphModule, node: Node) -> bool:
    parts = [graph.get_submodule(str(n.target)) for n in node.all_input_nodes if n.op == "get_attr"]
    inner = [part for part in parts if isinstance(part, GraphModule)]
    return any(operands(n) or unknown_operand(n) for part in inner for n in part.graph.nodes)


_BOUNDED = frozenset({"clamp", "clip", "bucketize", "searchsorted"})
"""Operators whose results are small, whatever their inputs are."""

_WIDE = (torch.int32, torch.int64, torch.uint32, torch.uint64)


def _wide(computed: Sequence[Operand | Divisor], small: set[Node]) -> str | None:
    """Return an index that is computed from wide integers of an input, or None.

    A program that computes integers in 32 bits, or in float32, may find another index, in range.
    ``small``: inputs whose values are limited to small numbers.
    """
    for operand in computed:
        pending, seen = [operand.indices], set(small)
        while pending:
            node = pending.pop()
            if node in seen or not _is_wide(node.meta.get("val")):
                continue
            seen.add(node)
            if node.op == "placeholder":
                return f"the index of {operator_name(operand.user)}"
            if operator_name(node) not in _BOUNDED:
                pending += node.all_input_nodes
    return None


def _is_wide(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return any(map(_is_wide, value))
    return isinstance(value, torch.Tensor) and value.dtype in _WIDE


# ---------------------------------------------------------------------------- the checks


def _with_checks(
    module: GraphModule, computed: Sequence[Operand | Divisor], names: dict[Node, str]
) -> CheckedModule:
    """Return the module with a check of each operand."""
    graph, copies = Graph(), dict[Node, Node]()
    outputs: Any = graph.graph_copy(module.graph, copies)
    placeholder = next(iter(names))
    batch = placeholder.meta["val"].shape[0]
    worst = []
    for operand in computed:
        indices, copy = copies[operand.indices], replace(operand, user=copies[operand.user])
        if isinstance(operand, Divisor):
            shape = operand.user.meta["val"].shape
            bounds: tuple[Any, ...] = (arguments(copy.user)["self"],)
            admit: Callable[..., torch.Tensor] = _divisible
            outside: Callable[..., torch.Tensor] = _divides_badly
        else:
            shape = operand.indices.meta["val"].shape
            table = operand.table if isinstance(operand.table, int) else copies[operand.table]
            bounds = (table, operand.dimension, operand.wraps)
            admit, outside = _inside, _outside
        with graph.inserting_before(copy.user):
            bad = graph.call_function(outside, (indices, *bounds))
            copy.with_indices(graph.call_function(admit, (indices, bad, *bounds)))
            rows = next((d for d, size in enumerate(shape) if _equal(size, batch)), None)
            worst.append(graph.call_function(_worst, (indices, bad, copies[placeholder], rows)))
    graph.output((*tree_leaves(outputs), *worst))
    checks = tuple(_check(operand, names) for operand in computed)
    return CheckedModule(GraphModule(module, graph), checks)


def _equal(size: Any, batch: Any) -> bool:
    return isinstance(size, torch.SymInt) and bool(size.node.expr == batch.node.expr)


def _check(operand: Operand | Divisor, names: dict[Node, str]) -> IndexCheck:
    sources = sources_of(operand.indices)
    inputs = tuple(name for node, name in names.items() if node in sources)
    operator = operator_name(operand.user)
    if isinstance(operand, Divisor):
        return IndexCheck(operator=operator, inputs=inputs, divides=True)
    table = operand.table if isinstance(operand.table, int) else operand.table.meta["val"]
    low, high = bounds_of(table, operand.dimension, wraps=operand.wraps)
    sized = isinstance(low, int) and isinstance(high, int)
    return IndexCheck(operator=operator, inputs=inputs, bounds=(low, high) if sized else None)


# Functions of the graph: torch.export traces them with their sizes.


def _outside(indices: torch.Tensor, table: Any, dimension: Any, wraps: bool) -> torch.Tensor:
    low, high = bounds_of(table, dimension, wraps=wraps)
    return (indices < low) | (indices > high)


def _inside(indices: torch.Tensor, bad: Any, table: Any, dimension: Any, wraps: bool) -> Any:
    low, high = bounds_of(table, dimension, wraps=wraps)
    return indices.clamp(low, high)


def _divides_badly(divisors: torch.Tensor, dividends: Any) -> torch.Tensor:
    lowest = torch.iinfo(divisors.dtype).min
    return (divisors == 0) | ((divisors == -1) & (dividends == lowest))


def _divisible(divisors: torch.Tensor, bad: torch.Tensor, dividends: Any) -> torch.Tensor:
    return torch.where(bad, 1, divisors)


def _worst(indices: torch.Tensor, bad: torch.Tensor, batch: Any, dimension: Any) -> torch.Tensor:
    """Return int64 ``[batch]``: 0, or a bad index of the item, counted from 1 if it is 0.

    ``dimension``: that of the items; None: every item may have read a bad index.
    """
    values = torch.where(bad, torch.where(indices < 0, indices, indices + 1), 0).to(torch.int64)
    if dimension is None:
        items = values.reshape(1, -1)
    else:
        items = values.movedim(dimension, 0).reshape(values.shape[dimension], -1)
    high, low = items.amax(1), items.amin(1)
    return torch.where(high > 0, high, low).expand(batch.shape[0])

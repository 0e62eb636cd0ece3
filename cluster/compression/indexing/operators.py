"""Operators that fail on some values of an integer operand, and the values that they accept.

node → its arguments by name → OPERANDS[operator] → Operand: the indices, the table that they index

Ranges are those of eager PyTorch: an index below 0 counts from the end where it does so there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node
from torch.fx.node import Argument

from cluster.parallel.graph import operator_name


@dataclass(frozen=True)
class Operand:
    """Indices of one operator, and the table that they index."""

    user: Node
    argument: str
    """Name of the operator's argument that holds the indices."""

    position: int | None
    """Position in the argument, if it is a list of tensors."""

    table: Node | int
    """Indexed tensor, or the number of its rows."""

    dimension: int | None
    """Indexed dimension of the table; None: its elements in one row."""

    wraps: bool
    """Whether negative indices count from the end."""

    @property
    def indices(self) -> Node:
        """Node whose values are the indices."""
        value: Any = arguments(self.user)[self.argument]
        node: Node = value if self.position is None else value[self.position]
        return node

    def with_indices(self, indices: Node) -> None:
        """Let the operator read ``indices`` instead. Other arguments with the same tensor stay."""
        value: Any = indices
        if self.position is not None:
            value = list(arguments(self.user)[self.argument])
            value[self.position] = indices
        names = [argument.name for argument in _schema(self.user).arguments]
        at = names.index(self.argument)
        if at < len(self.user.args):
            self.user.update_arg(at, value)
        else:
            self.user.update_kwarg(self.argument, value)


def bounds_of(table: Any, dimension: int | None, *, wraps: bool) -> tuple[Any, Any]:
    """Return the lowest and the highest index of a tensor ``table``, or of that number of rows."""
    if isinstance(table, int):
        rows: Any = table
    else:
        rows = table.numel() if dimension is None else table.shape[dimension]
    return (-rows if wraps else 0), rows - 1


@dataclass(frozen=True)
class Divisor:
    """Integer divisor of one operator: eager PyTorch refuses 0, compiled code ends its process."""

    user: Node
    argument: str = "other"

    @property
    def indices(self) -> Node:
        """Node whose values are the divisors."""
        node: Node = arguments(self.user)[self.argument]
        return node

    def with_indices(self, divisors: Node) -> None:
        """Let the operator read ``divisors`` instead."""
        names = [argument.name for argument in _schema(self.user).arguments]
        self.user.update_arg(names.index(self.argument), divisors)


def operands(node: Node) -> list[Operand | Divisor]:
    """Return the operands of a node whose values the operator must check."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return []
    find = OPERANDS.get(operator_name(node))
    return [] if find is None else [o for o in find(node) if _is_integer(o.indices)]


def unknown_operand(node: Node) -> str | None:
    """Return the name of an argument that seems to hold indices, of an operator not known here."""
    if not isinstance(node.target, torch._ops.OpOverload) or operator_name(node) in OPERANDS:
        return None
    for name, value in arguments(node).items():
        if name in _INDEX_ARGUMENTS and isinstance(value, Node) and _is_integer(value):
            return name
    return None


_INDEX_ARGUMENTS = frozenset(
    {"index", "indices", "idx", "indexes", "offsets", "target", "targets", "positions", "rows"}
    | {"sorter", "repeats", "lengths", "input_lengths", "target_lengths", "start"}
    | {"tensor_indices_or_sections"}
)


def arguments(node: Node) -> dict[str, Any]:
    """Return the arguments of an operator's node by name, without those left to their defaults."""
    names = [argument.name for argument in _schema(node).arguments]
    return {**dict(zip(names, node.args, strict=False)), **node.kwargs}


def _schema(node: Node) -> Any:
    return node.target._schema  # type: ignore[union-attr]


def _is_integer(node: Argument) -> bool:
    value = node.meta.get("val") if isinstance(node, Node) else None
    if not isinstance(value, torch.Tensor):
        return False
    return not value.dtype.is_floating_point and value.dtype != torch.bool


def _along(
    table: str, indices: str, dimension: int | str | None, *, wraps: bool = False
) -> Callable[[Node], Iterator[Operand]]:
    """Return a finder of one operand; ``dimension``: a number, or the argument that holds it."""

    def find(node: Node) -> Iterator[Operand]:
        values = arguments(node)
        if isinstance(values.get(indices), Node):
            along = values[dimension] if isinstance(dimension, str) else dimension
            yield Operand(node, indices, None, values[table], along, wraps)

    return find


def _of_list(node: Node) -> Iterator[Operand]:
    """Yield an operand for each tensor of indices; masks of booleans accept every value."""
    values, dimension = arguments(node), 0
    for position, indices in enumerate(values["indices"]):
        if not isinstance(indices, Node):
            dimension += 1
            continue
        value = indices.meta["val"]
        if value.dtype in (torch.bool, torch.uint8):
            dimension += value.dim()
            continue
        yield Operand(node, "indices", position, values["self"], dimension, wraps=True)
        dimension += 1


def _of_flat(node: Node) -> Iterator[Operand]:
    """Yield the operand of an operator that counts indices modulo the size of its ``dim``."""
    values = arguments(node)
    if values.get("dim") is None:
        yield Operand(node, "indices", None, values["self"], None, wraps=False)


def _of_classes(node: Node) -> Iterator[Operand]:
    values = arguments(node)
    yield Operand(node, "self", None, values.get("num_classes", -1), None, wraps=False)


def _of_unpool(node: Node) -> Iterator[Operand]:
    values = arguments(node)
    if all(isinstance(size, int) for size in values["output_size"]):
        rows = math.prod(values["output_size"])
        yield Operand(node, "indices", None, rows, None, wraps=False)


def _of_division(node: Node) -> Iterator[Divisor]:
    values = arguments(node)
    divisor, dividend = values.get("other"), values.get("self")
    rounds = operator_name(node) not in ("div", "divide") or values.get("rounding_mode")
    integers = not isinstance(dividend, Node) or _is_integer(dividend)
    if rounds and isinstance(divisor, Node) and integers:
        yield Divisor(node)


OPERANDS: dict[str, Callable[[Node], Iterator[Operand | Divisor]]] = {
    "embedding": _along("weight", "indices", 0),
    "embedding_renorm": _along("self", "indices", 0),
    "embedding_bag": _along("weight", "indices", 0),
    "_embedding_bag": _along("weight", "indices", 0),
    "embedding_byte": _along("weight", "indices", 0),
    "embedding_4bit": _along("weight", "indices", 0),
    "embedding_2bit": _along("weight", "indices", 0),
    "index": _of_list,
    "index_put": _of_list,
    "_unsafe_index": _of_list,
    "_unsafe_index_put": _of_list,
    "_index_put_impl": _of_list,
    "index_select": _along("self", "index", "dim"),
    "index_add": _along("self", "index", "dim"),
    "index_copy": _along("self", "index", "dim"),
    "index_reduce": _along("self", "index", "dim"),
    "index_fill": _along("self", "index", "dim", wraps=True),
    "gather": _along("self", "index", "dim"),
    "scatter": _along("self", "index", "dim"),
    "scatter_add": _along("self", "index", "dim"),
    "scatter_reduce": _along("self", "index", "dim"),
    "take": _along("self", "index", None, wraps=True),
    "put": _along("self", "index", None, wraps=True),
    "take_along_dim": _of_flat,
    "one_hot": _of_classes,
    "max_unpool2d": _of_unpool,
    "max_unpool3d": _of_unpool,
    "floor_divide": _of_division,
    "remainder": _of_division,
    "fmod": _of_division,
    "div": _of_division,
    "divide": _of_division,
}
"""Operator, without namespace and overload → finder of its operands."""

"""Elements of the inputs that are indices themselves, but for views, casts and added constants.

    x[:, 1] + 3 ─→ embedding of 10 rows:     element 1 of x must be -3 to 6

Every node between an input and an operand is computed twice: once on the numbers of the elements,
once on the constants added to them. Indices that are computed in another way have no such range.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from cluster.compression.indexing.dataflow import overwritten, varying
from cluster.compression.indexing.operators import Operand, arguments, bounds_of
from cluster.parallel.graph import counts, operator_name
from cluster.tensors import TensorSpec

_CONSTANT = -1
"""Number of a value that is no element of an input."""

_MOVING = frozenset(
    {"alias", "detach", "clone", "contiguous", "lift_fresh", "lift_fresh_copy", "getitem"}
    | {"view", "_unsafe_view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze"}
    | {"permute", "transpose", "t", "movedim", "swapaxes", "swapdims", "numpy_T", "mT", "adjoint"}
    | {"select", "slice", "narrow", "split", "split_with_sizes", "chunk", "unbind", "tensor_split"}
    | {"hsplit", "vsplit", "dsplit", "unsafe_split", "unsafe_chunk", "unfold", "diagonal"}
    | {"expand", "expand_as", "broadcast_to", "repeat", "tile", "flip", "roll", "repeat_interleave"}
    | {"cat", "concat", "concatenate", "stack", "hstack", "vstack", "column_stack", "atleast_1d"}
    | {"atleast_2d", "view_as", "reshape_as"}
)
"""Operators that move values and change none."""

_SELECTING = frozenset({"index", "index_select"})
"""Operators that move values by their other arguments."""

_CASTS = frozenset({"to", "_to_copy", "type_as", "long", "int"})


@dataclass(frozen=True)
class Moved:
    """Values that are elements of inputs plus constants; tuples of them for several tensors."""

    numbers: Any
    """Number of each value's element among the elements of all inputs; -1 for a constant."""

    added: Any
    """Constant that is added to the element, or the constant itself."""


class Elements:
    """Search for operands that are elements of the model's inputs."""

    def __init__(self, module: GraphModule, inputs: Sequence[TensorSpec], batch: int) -> None:
        """``batch``: items in the computed batch; a model treats all of them alike."""
        self._module, self._batch = module, batch
        nodes = list(module.graph.nodes)
        self._varying = varying(module.graph)
        self._overwritten = {value for node in nodes for value in overwritten(node)}
        self._moved: dict[Node, Moved | None] = {}
        self._constants: dict[Node, Any] = {}
        first = 0
        for node, spec in zip([n for n in nodes if n.op == "placeholder"], inputs, strict=True):
            items = torch.zeros(spec.item_shape).numel()
            numbers = torch.arange(first, first + items).reshape(1, *spec.item_shape)
            numbers = numbers.expand(batch, *spec.item_shape)
            if node not in self._overwritten:
                self._moved[node] = Moved(numbers, torch.zeros_like(numbers))
            first += items

    def of(self, operand: Operand) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None:
        """Return element numbers, and the lowest and the highest value of each, all int64 ``[N]``.

        None if the indices are no elements of inputs, or the table's size depends on the batch.
        """
        table = operand.table if isinstance(operand.table, int) else operand.table.meta["val"]
        low, high = bounds_of(table, operand.dimension, wraps=operand.wraps)
        moved = self._values(operand.indices)
        if moved is None or not (isinstance(low, int) and isinstance(high, int)):
            return None
        elements = moved.numbers != _CONSTANT
        added = moved.added[elements]
        return moved.numbers[elements], low - added, high - added

    def _values(self, node: Node) -> Moved | None:
        if node not in self._moved:
            self._moved[node] = None if node in self._overwritten else self._compute(node)
        return self._moved[node]

    def _compute(self, node: Node) -> Moved | None:
        if node not in self._varying:
            value = self._constant(node)
            if not isinstance(value, torch.Tensor) or value.dtype.is_floating_point:
                return None
            return Moved(torch.full(value.shape, _CONSTANT), value.long())
        name = operator_name(node)
        try:
            if name in _MOVING:
                return self._move(node, [n for n in node.all_input_nodes if not counts(n)])
            if name in _SELECTING and not self._varying.intersection(node.all_input_nodes[1:]):
                return self._move(node, node.all_input_nodes[:1])
            if name in _CASTS:
                return self._cast(node)
            if name in ("add", "sub", "rsub"):
                return self._add(node, name)
        except (RuntimeError, IndexError, TypeError, ValueError):  # of this form not foreseen here
            return None
        return None

    def _move(self, node: Node, tensors: Sequence[Node]) -> Moved | None:
        sources = {source: self._values(source) for source in tensors}
        if any(moved is None for moved in sources.values()):
            return None

        def run(part: Callable[[Moved], Any]) -> Any:
            def value(source: Node) -> Any:
                moved = sources.get(source)
                return self._constant(source) if moved is None else part(moved)

            target: Any = node.target
            return target(*map_arg(node.args, value), **map_arg(node.kwargs, value))

        return Moved(run(lambda moved: moved.numbers), run(lambda moved: moved.added))

    def _cast(self, node: Node) -> Moved | None:
        source: Any = node.args[0]
        before, after = source.meta["val"].dtype, node.meta["val"].dtype
        return self._values(source) if _keeps_values(before, after) else None

    def _add(self, node: Node, name: str) -> Moved | None:
        values = arguments(node)
        first, second = self._term(values["self"]), self._term(values["other"])
        if values.get("alpha", 1) != 1 or first is None or second is None:
            return None
        if name == "rsub":
            first, second = second, first
        if node.meta["val"].dtype.is_floating_point:
            return None
        sign = 1 if name == "add" else -1
        both = (first.numbers != _CONSTANT) & (second.numbers != _CONSTANT)
        negated = (second.numbers != _CONSTANT) & (sign < 0)
        if bool(both.any()) or bool(negated.any()):
            return None
        numbers = torch.maximum(*torch.broadcast_tensors(first.numbers, second.numbers))
        return Moved(numbers, first.added + sign * second.added)

    def _term(self, value: Any) -> Moved | None:
        if isinstance(value, Node) and not counts(value):
            return self._values(value)
        number = self._constant(value) if isinstance(value, Node) else value
        if not isinstance(number, int):
            return None
        return Moved(torch.tensor(_CONSTANT), torch.tensor(number))

    def _constant(self, node: Node) -> Any:
        """Return the value of a node that does not depend on the inputs' values."""
        if node not in self._constants:
            self._constants[node] = self._evaluate(node)
        return self._constants[node]

    def _evaluate(self, node: Node) -> Any:
        if counts(node):
            return self._size(node.meta["val"])
        if node in self._varying:  # an operator that reads its shape alone
            value = node.meta["val"]
            return torch.zeros([self._size(size) for size in value.shape], dtype=value.dtype)
        if node in self._overwritten:
            return None
        if node.op == "get_attr":
            value = self._module
            for part in str(node.target).split("."):
                value = getattr(value, part)
            return value
        if node.op != "call_function":
            return None
        target: Any = node.target
        return target(*map_arg(node.args, self._constant), **map_arg(node.kwargs, self._constant))

    def _size(self, size: Any) -> int:
        """Return a size for the computed batch."""
        if isinstance(size, int):
            return size
        expression = size.node.expr
        return int(expression.subs(dict.fromkeys(expression.free_symbols, self._batch)))


def _keeps_values(before: torch.dtype, after: torch.dtype) -> bool:
    """Whether a cast keeps each value, but for the fraction of a float that becomes an integer."""
    if before == after or before == torch.bool:
        return True
    if before in (torch.float32, torch.float64):
        return after in (torch.int32, torch.int64, torch.float64)
    if before.is_floating_point or after.is_floating_point or after == torch.bool:
        return False
    old, new = torch.iinfo(before), torch.iinfo(after)
    return new.min <= old.min and old.max <= new.max

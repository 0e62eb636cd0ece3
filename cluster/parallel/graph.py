"""A model as one graph of operators, and the places where it may be cut in two.

module → torch.export, batch dynamic → operators ─ liveness ─→ cuts: what crosses each place

What does not depend on the inputs (parameters, position ids, causal masks) and what only counts
the batch crosses nothing: each stage computes it for itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.fx import Graph, GraphModule, Node

from cluster.errors import PlanError
from cluster.tensors import BATCH, DATATYPES, TensorSpec

EXAMPLE_BATCH = 8
"""Batch size of the example that a model is traced with; the size is dynamic in the graph."""

_DATATYPES = {
    getattr(torch, "bool" if name == "BOOL" else dtype.name): name
    for name, dtype in DATATYPES.items()
}
_DATATYPES[torch.bfloat16] = "INT16"  # its bits, which NumPy has no type for

_JOINED = (
    "relu", "gelu", "silu", "hardswish", "hardtanh", "hardsigmoid", "sigmoid", "tanh", "clamp",
    "batch_norm", "native_batch_norm", "add", "mul", "dropout", "clone", "contiguous", "view",
    "reshape", "flatten", "transpose", "permute", "unsqueeze", "squeeze", "to", "_to_copy",
    "quantize_per_tensor", "getitem", "alias", "detach", "slice", "select",
)  # fmt: skip
"""Operators that a compiler joins with the one they take from, or that only look at it another
way: a cut before one would cost more than the cut after it."""


@dataclass(frozen=True)
class Cut:
    """A place between two operators, and the tensors that cross it, per item of the batch."""

    after: str
    """Name of the operator's node before the cut."""

    carried: tuple[str, ...]
    """Names of the nodes whose values are needed behind it."""

    specs: tuple[TensorSpec, ...]
    """The same as tensors ``[-1, ...]``; bfloat16 crosses as INT16, its bits."""

    @property
    def item_bytes(self) -> int:
        """Bytes that cross per item."""
        return sum(spec.item_bytes for spec in self.specs)


def example(inputs: tuple[TensorSpec, ...], batch: int = EXAMPLE_BATCH) -> tuple[torch.Tensor, ...]:
    """Zero inputs ``[batch, ...]`` whose batch size torch.export keeps dynamic."""
    tensors = tuple(torch.from_numpy(spec.zeros(batch)) for spec in inputs)
    for tensor in tensors:
        # pipeline() traces by itself and takes no dynamic shapes; this mark it does honour.
        torch._dynamo.maybe_mark_dynamic(tensor, 0)
    return tensors


def trace(module: torch.nn.Module, inputs: tuple[TensorSpec, ...]) -> GraphModule:
    """The model as a graph with a dynamic batch; PlanError naming what cannot be traced."""
    try:
        with torch.no_grad():
            program = torch.export.export(module, example(inputs))
        graph: GraphModule = program.module(check_guards=False)
        return graph
    # torch.export names no common base for what it raises on models that it cannot follow.
    except Exception as error:
        raise PlanError(
            f"the model cannot be cut, because it cannot be exported as one graph: {_where(error)}"
        ) from error


def cuts(graph: Graph) -> list[Cut]:
    """Every place where the graph may be cut, in its order.

    Crossing tensors must have the batch as their first dimension and fixed sizes after it.
    """
    nodes = list(graph.nodes)
    position = {node: index for index, node in enumerate(nodes)}
    varying = dependent(graph)
    last_use = {
        node: max((position[user] for user in node.users), default=-1)
        for node in nodes
        if node in varying
    }
    output = position[nodes[-1]]
    found = []
    for index, node in enumerate(nodes[:-1]):
        if node.op != "call_function" or node not in varying or _joined(nodes[index + 1 : output]):
            continue
        crossing = [each for each in nodes[: index + 1] if last_use.get(each, -1) > index]
        specs = [_spec(each) for each in crossing]
        # Behind the last operator there is no stage.
        if all(each.op in ("output", "get_attr") for each in nodes[index + 1 :]):
            break
        if crossing and all(spec is not None for spec in specs):
            names = tuple(each.name for each in crossing)
            found.append(Cut(node.name, names, tuple(spec for spec in specs if spec is not None)))
    return found


def index_limits(graph: Graph, inputs: tuple[TensorSpec, ...]) -> dict[str, int]:
    """The inputs that the graph looks up in a table → the rows of the smallest such table."""
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    names = {node: spec.name for node, spec in zip(placeholders, inputs, strict=True)}
    found: dict[str, int] = {}
    for node in graph.nodes:
        if operator_name(node) != "embedding":
            continue
        table, index = node.args[0], node.args[1]
        while index.op == "call_function" and operator_name(index) in ("to", "_to_copy", "view"):
            index = index.args[0]
        if index in names:
            rows = int(table.meta["val"].shape[0])
            found[names[index]] = min(rows, found.get(names[index], rows))
    return found


def dependent(graph: Graph) -> set[Node]:
    """The nodes whose values are tensors that depend on the model's inputs."""
    found: set[Node] = set()
    for node in graph.nodes:
        if counts(node):
            continue
        if node.op == "placeholder" or any(each in found for each in node.all_input_nodes):
            found.add(node)
    return found


def counts(node: Node) -> bool:
    """Whether the node's value is a number made of the batch size, not a tensor."""
    return isinstance(node.meta.get("val"), torch.SymInt | int)


def operator_name(node: Node) -> str:
    """Such as ``conv2d``: without namespace and overload."""
    name = str(node.target) if not callable(node.target) else getattr(node.target, "__name__", "")
    if isinstance(node.target, torch._ops.OpOverload):
        name = str(node.target).partition(".")[2]
    return name.partition(".")[0].rstrip("_")


def _joined(following: list[Node]) -> bool:
    """Whether the next operator belongs to what is before it."""
    for node in following:
        if node.op == "call_function" and not counts(node):
            return operator_name(node) in _JOINED
    return False


def _spec(node: Node) -> TensorSpec | None:
    """The value of the node as a tensor that can cross a cut, or None if it cannot."""
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor) or value.dtype not in _DATATYPES or value.dim() == 0:
        return None
    batch, *others = value.shape
    if not _is_batch(batch) or not all(isinstance(size, int) for size in others):
        return None
    if operator_name(node).startswith("dequantize"):  # its int8 is a quarter as large
        return None
    return TensorSpec(name=node.name, datatype=_DATATYPES[value.dtype], shape=(BATCH, *others))


def _is_batch(size: object) -> bool:
    return isinstance(size, torch.SymInt) and size.node.expr.is_symbol


def _where(error: Exception) -> str:
    """The error's own words, and the line of the user's code if it names one."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    cause = lines[0] if lines else type(error).__name__
    at = [i for i, line in enumerate(lines) if line.startswith("File ") and "torch/" not in line]
    if not at:
        return cause
    return f"{cause} {' '.join(lines[at[0] : at[0] + 2])}"


def values_between(nodes: list[Node]) -> Iterator[tuple[Node, int]]:
    """Each node with the bytes per item that are alive after it."""
    position = {node: index for index, node in enumerate(nodes)}
    ends: dict[int, list[Node]] = {}
    for node in nodes:
        last = max((position[user] for user in node.users), default=position[node])
        ends.setdefault(last, []).append(node)
    alive = 0
    for index, node in enumerate(nodes):
        alive += node_bytes(node)
        yield node, alive
        alive -= sum(node_bytes(each) for each in ends.get(index, ()))


def node_bytes(node: Node) -> int:
    """Bytes per item of a value that grows with the batch; of parameters none."""
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor) or all(isinstance(size, int) for size in value.shape):
        return 0
    sizes = [size for size in value.shape if isinstance(size, int)]
    return int(np.prod(sizes, dtype=np.int64)) * value.element_size()

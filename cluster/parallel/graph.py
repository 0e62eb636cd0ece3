"""A model as one graph of operators, and its possible cuts.

module → torch.export, batch dynamic → operators ─ liveness ─→ cuts: tensors that cross each place

Values that do not depend on the inputs (parameters, position ids, causal masks) and batch sizes
cross no cut: each stage computes them itself.
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
"""Batch size of the example for tracing; the size is dynamic in the graph."""

_DATATYPES = {
    getattr(torch, "bool" if name == "BOOL" else dtype.name): name
    for name, dtype in DATATYPES.items()
}
_DATATYPES[torch.bfloat16] = "INT16"  # as raw bits: NumPy has no bfloat16

_FUSED = frozenset(
    {"relu", "gelu", "silu", "hardswish", "hardtanh", "hardsigmoid", "sigmoid", "tanh", "clamp"}
    | {"batch_norm", "native_batch_norm", "add", "mul", "dropout", "clone", "contiguous", "view"}
    | {"reshape", "flatten", "transpose", "permute", "unsqueeze", "squeeze", "to", "_to_copy"}
    | {"quantize_per_tensor", "getitem", "alias", "detach", "slice", "select"}
)
"""Operators that a compiler fuses with their input, and views of it: a cut before one would cost
more than the cut after it."""


@dataclass(frozen=True)
class CutPoint:
    """A place between two operators, and the tensors that cross it."""

    after: str
    """Name of the last operator's node before the cut."""

    carried: tuple[str, ...]
    """Names of the nodes whose values are used after the cut."""

    specs: tuple[TensorSpec, ...]
    """Specs ``[-1, ...]`` of these values; bfloat16 crosses as INT16, its raw bits."""

    @property
    def item_bytes(self) -> int:
        """Bytes per item that cross the cut."""
        return sum(spec.item_bytes for spec in self.specs)


def example(inputs: tuple[TensorSpec, ...], batch: int = EXAMPLE_BATCH) -> tuple[torch.Tensor, ...]:
    """Return zero inputs ``[batch, ...]`` whose batch size torch.export keeps dynamic."""
    tensors = tuple(torch.from_numpy(spec.zeros(batch)) for spec in inputs)
    for tensor in tensors:
        # pipeline() traces the module itself, without dynamic shapes, but respects this mark.
        torch._dynamo.maybe_mark_dynamic(tensor, 0)
    return tensors


def trace(module: torch.nn.Module, inputs: tuple[TensorSpec, ...]) -> GraphModule:
    """Return the model as a graph with a dynamic batch; PlanError naming the untraceable part."""
    try:
        with torch.no_grad():
            program = torch.export.export(module, example(inputs))
        graph: GraphModule = program.module(check_guards=False)
        return graph
    # torch.export has no common base class for errors on models that it cannot trace.
    except Exception as error:
        raise PlanError(
            f"the model cannot be cut, because it cannot be exported as one graph: {_cause(error)}"
        ) from error


def cuts(graph: Graph) -> list[CutPoint]:
    """Return every possible cut of the graph, in its order.

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
    result = []
    for index, node in enumerate(nodes[:-1]):
        if node.op != "call_function" or node not in varying or _fuses(nodes[index + 1 : output]):
            continue
        crossing = [value for value in nodes[: index + 1] if last_use.get(value, -1) > index]
        specs = [_spec(value) for value in crossing]
        # No stage can follow the last operator.
        if all(later.op in ("output", "get_attr") for later in nodes[index + 1 :]):
            break
        if crossing and all(spec is not None for spec in specs):
            names = tuple(value.name for value in crossing)
            result.append(
                CutPoint(node.name, names, tuple(spec for spec in specs if spec is not None))
            )
    return result


def dependent(graph: Graph) -> set[Node]:
    """Return the nodes whose values are tensors that depend on the model's inputs."""
    result: set[Node] = set()
    for node in graph.nodes:
        if counts(node):
            continue
        if node.op == "placeholder" or any(source in result for source in node.all_input_nodes):
            result.add(node)
    return result


def counts(node: Node) -> bool:
    """Whether the node's value is a number derived from the batch size, not a tensor."""
    return isinstance(node.meta.get("val"), torch.SymInt | int)


def operator_name(node: Node) -> str:
    """Return the operator's name without namespace and overload, such as ``conv2d``."""
    name = str(node.target) if not callable(node.target) else getattr(node.target, "__name__", "")
    if isinstance(node.target, torch._ops.OpOverload):
        name = str(node.target).partition(".")[2]
    return name.partition(".")[0].rstrip("_")


def _fuses(following: list[Node]) -> bool:
    """Whether a compiler fuses the next operator with the previous one."""
    for node in following:
        if node.op == "call_function" and not counts(node):
            return operator_name(node) in _FUSED
    return False


def _spec(node: Node) -> TensorSpec | None:
    """Return the spec of the node's value, or None if it cannot cross a cut."""
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor) or value.dtype not in _DATATYPES or value.dim() == 0:
        return None
    batch, *dimensions = value.shape
    if not _is_batch(batch) or not all(isinstance(size, int) for size in dimensions):
        return None
    if operator_name(node).startswith(
        "dequantize"
    ):  # the int8 value before it is a quarter of the size
        return None
    return TensorSpec(name=node.name, datatype=_DATATYPES[value.dtype], shape=(BATCH, *dimensions))


def _is_batch(size: object) -> bool:
    return isinstance(size, torch.SymInt) and size.node.expr.is_symbol


def _cause(error: Exception) -> str:
    """Return the error's first line, and the line of the user's code if it names one."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    cause = lines[0] if lines else type(error).__name__
    at = [i for i, line in enumerate(lines) if line.startswith("File ") and "torch/" not in line]
    if not at:
        return cause
    return f"{cause} {' '.join(lines[at[0] : at[0] + 2])}"


def values_between(nodes: list[Node]) -> Iterator[tuple[Node, int]]:
    """Yield each node with the bytes per item that are alive after it."""
    position = {node: index for index, node in enumerate(nodes)}
    ends: dict[int, list[Node]] = {}
    for node in nodes:
        last = max((position[user] for user in node.users), default=position[node])
        ends.setdefault(last, []).append(node)
    alive = 0
    for index, node in enumerate(nodes):
        alive += node_bytes(node)
        yield node, alive
        alive -= sum(node_bytes(value) for value in ends.get(index, ()))


def node_bytes(node: Node) -> int:
    """Return the bytes per item of a value that grows with the batch; 0 for parameters."""
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor) or all(isinstance(size, int) for size in value.shape):
        return 0
    sizes = [size for size in value.shape if isinstance(size, int)]
    return int(np.prod(sizes, dtype=np.int64)) * value.element_size()

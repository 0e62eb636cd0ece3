"""Values of a graph that depend on the inputs' values, and those that an operator overwrites."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.fx import Graph, Node

from cluster.parallel.graph import counts, operator_name

_FILLED = frozenset(
    {"zeros_like", "ones_like", "full_like", "empty_like"}
    | {"new_zeros", "new_ones", "new_full", "new_empty"}
)
"""Operators that read the shape of their input, and not its values."""

_UNCHANGED = frozenset({"detach", "lift_fresh", "requires_grad"})
"""Operators that are declared to write in place, but change no value."""


def varying(graph: Graph) -> set[Node]:
    """Return the nodes whose tensors depend on the values of the model's inputs."""
    nodes, result = list(graph.nodes), set[Node]()
    while True:
        before = len(result)
        for node in nodes:
            if node.op == "placeholder" or _reads(node, result):
                result.add(node)
            if node in result:
                result.update(overwritten(node))
        if len(result) == before:
            return result


def _reads(node: Node, sources: set[Node]) -> bool:
    if counts(node) or operator_name(node) in _FILLED:
        return False
    return any(source in sources for source in node.all_input_nodes)


def overwritten(node: Node) -> Iterator[Node]:
    """Yield the nodes whose memory the operator ``node`` changes: its arguments and their bases."""
    if not isinstance(node.target, torch._ops.OpOverload) or operator_name(node) in _UNCHANGED:
        return
    for argument, value in zip(node.target._schema.arguments, node.args, strict=False):
        writes = argument.alias_info is not None and argument.alias_info.is_write
        while writes and isinstance(value, Node):
            yield value
            value = _viewed(value)


def _viewed(node: Node) -> Node | None:
    """Return the tensor whose memory ``node`` may share; None if it has its own."""
    if not isinstance(node.target, torch._ops.OpOverload) or not node.args:
        return None
    source, shares = node.args[0], node.target._schema.arguments[0].alias_info is not None
    return source if shares and isinstance(source, Node) else None


def reads_number(node: Node, sources: set[Node]) -> bool:
    """Whether the node takes a number out of one of the tensors ``sources``."""
    return operator_name(node) in ("item", "_local_scalar_dense") and any(
        source in sources for source in node.all_input_nodes
    )


def sources_of(node: Node) -> set[Node]:
    """Return the inputs of the model that the node's value depends on."""
    seen, pending = set[Node](), [node]
    while pending:
        current = pending.pop()
        if current not in seen:
            seen.add(current)
            pending += current.all_input_nodes
    return {value for value in seen if value.op == "placeholder"}

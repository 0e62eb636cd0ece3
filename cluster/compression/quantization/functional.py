"""Graph of an exported program without in-place operators whose change is read by another name.

    y = convolution(x);  z = y.view(...);  relu_(y);  linear(z)

A quantizer puts operators between these lines, where ``z`` still has its old values. Such a graph
is rewritten to operators that return a new tensor. Other in-place operators stay: the quantizer
knows patterns with them.
"""

from __future__ import annotations

import operator
from typing import Any, cast

import torch
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node

_aten = torch.ops.aten


def functional(program: ExportedProgram) -> GraphModule:
    """Return the program's graph, rewritten if an in-place change is read by another name."""
    graph: GraphModule = program.module()
    if not _read_after_change(graph):
        return graph
    graph = program.run_decompositions({}).module()
    for node in [*graph.graph.nodes]:
        if node.target is _aten._native_batch_norm_legit_no_training.default:
            _as_batch_norm(node, graph)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def _read_after_change(graph: GraphModule) -> bool:
    """Return whether a tensor that an in-place operator changed is read later by another name."""
    position = {node: number for number, node in enumerate(graph.graph.nodes)}
    names: dict[Node, list[Node]] = {}
    for node in graph.graph.nodes:
        source, writes = _aliased(node)
        if source is None:
            continue
        same = names.setdefault(source, [source])  # one list for all names of a tensor
        if writes and any(position[user] > position[node] for name in same for user in name.users):
            return True
        same.append(node)
        names[node] = same
    return False


def _aliased(node: Node) -> tuple[Node | None, bool]:
    """Return the tensor of which the node's result is a view, or which it changes, and whether."""
    if node.target is operator.getitem:  # of several views
        return cast(Node, node.args[0]), False
    if not isinstance(node.target, torch._ops.OpOverload):
        return None, False
    for argument, value in zip(node.target._schema.arguments, node.args, strict=False):
        if argument.alias_info is not None and isinstance(value, Node):
            return value, argument.alias_info.is_write
    return None, False


def _as_batch_norm(node: Node, graph: GraphModule) -> None:
    """Replace the functional form, which returns three tensors, by the usual operator."""
    inputs: Any = node.args[:5]
    momentum, epsilon = node.args[5:7]
    with graph.graph.inserting_before(node):
        norm = graph.graph.call_function(
            _aten.batch_norm.default, (*inputs, False, momentum, epsilon, False)
        )
    norm.meta = {**node.meta, "val": node.meta["val"][0]}
    for user in [*node.users]:  # the statistics of the batch, which follow it, are empty
        if user.args[1] == 0:
            user.replace_all_uses_with(norm)

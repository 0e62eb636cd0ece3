"""Operators with weights in an OpenVINO graph: their layers, and the types of their weights.

operators_of            layers of the PyTorch module → names of their operators
operators_with_weights  types of weights → number of operators with such weights

OpenVINO names operators after nodes of the converted graph, and fuses some: a convolution fused
with a batch normalization has the latter's name. So a layer's operator is searched at its own node,
then at the nodes behind it.
"""

from __future__ import annotations

import operator
from collections.abc import Collection
from typing import Any

from torch.fx import GraphModule, Node

from cluster.errors import CompressionError

_COMPUTING = (
    "Convolution",
    "GroupConvolution",
    "ConvolutionBackpropData",
    "GroupConvolutionBackpropData",
    "MatMul",
)

_UNPACKING = ("Convert", "Subtract", "Multiply", "FakeQuantize", "Reshape", "Transpose")
"""Operators between stored weights and the operator that uses them."""


def operators_of(graph: Any, module: GraphModule, layers: tuple[str, ...]) -> list[str]:
    """Return the names of the operators of ``layers`` in ``graph``, converted from ``module``.

    CompressionError if a layer has no operator: it would be quantized unnoticed.
    """
    producers = {
        name.removesuffix(":0"): op
        for op in graph.get_ops()
        for port in op.outputs()
        for name in port.get_names()
    }
    names = []
    for layer in layers:
        operators = {
            name
            for node in module.graph.nodes
            if node.op == "call_function" and _layer(node) == layer
            for name in _computing(node, producers)
        }
        if not operators:
            raise CompressionError(
                f"layer {layer!r} must keep its precision, but its operator is not found in "
                "OpenVINO's graph; build this model without the kind openvino"
            )
        names.extend(sorted(operators))
    return names


def operators_with_weights(graph: Any, types: Collection[str]) -> int:
    """Count convolutions and matrix products of ``graph`` whose weights have one of ``types``.

    ``types``: OpenVINO's names, such as ``i8`` and ``f32``.
    """
    return sum(
        any(_stored_in(port.get_source_output().get_node()) in types for port in op.inputs())
        for op in graph.get_ops()
        if op.get_type_name() in _COMPUTING
    )


def _stored_in(op: Any) -> str | None:
    """Return the type of the constant behind ``op``'s values; None for an activation."""
    while op.get_type_name() in _UNPACKING:
        op = op.input_value(0).get_node()
    return op.get_element_type().get_type_name() if op.get_type_name() == "Constant" else None


def _layer(node: Node) -> str | None:
    """Return the path of the node's innermost module."""
    stack = node.meta.get("nn_module_stack") or {}
    return next((path for path, _ in reversed(stack.values())), None)


def _computing(node: Node, producers: dict[str, Any]) -> list[str]:
    """Return the operator with weights at ``node`` or at nodes fused with it; empty if none."""
    nodes = [node]
    while nodes:
        for candidate in nodes:
            op = _above(producers.get(candidate.name))
            if op is not None:
                return [op.get_friendly_name()]
        nodes = [user for candidate in nodes for user in candidate.users if _fused(user)]
    return []


def _fused(node: Node) -> bool:
    """Return whether the node is a batch normalization, or one of its results."""
    return node.target is operator.getitem or "batch_norm" in str(node.target)


def _above(op: Any) -> Any:
    """Return the operator with weights at ``op``, or before it behind an added bias."""
    for _ in range(2):
        if op is None or op.get_type_name() in _COMPUTING:
            return op
        if op.get_type_name() not in ("Add", "Multiply"):
            return None
        op = op.input_value(0).get_node()
    return op if op is not None and op.get_type_name() in _COMPUTING else None

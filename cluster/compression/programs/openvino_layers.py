"""The operators of an OpenVINO graph that compute with weights: which layers they are, what their
weights are stored in.

operators_of            layers of the PyTorch module → names of their operators
operators_with_weights  types of weights → how many operators have such

OpenVINO names operators after nodes of the graph that was converted, and fuses some: a
convolution with the batch normalization behind it bears the latter's name. So a layer's operator
is looked for at its own node, then at the nodes behind it.
"""

from __future__ import annotations

import operator
from collections.abc import Collection
from typing import Any

from torch.fx import GraphModule, Node

from cluster.errors import CompressionError

_COMPUTING = ("Convolution", "GroupConvolution", "ConvolutionBackpropData",
              "GroupConvolutionBackpropData", "MatMul")  # fmt: skip

_UNPACKING = ("Convert", "Subtract", "Multiply", "FakeQuantize", "Reshape", "Transpose")
"""Operators between stored weights and what computes with them."""


def operators_of(graph: Any, module: GraphModule, layers: tuple[str, ...]) -> list[str]:
    """Names in ``graph`` of what computes ``layers``; ``module`` is what was converted to it.

    CompressionError if a layer's operator is not found: it would be quantized unnoticed.
    """
    producers = {
        name.removesuffix(":0"): op
        for op in graph.get_ops()
        for port in op.outputs()
        for name in port.get_names()
    }
    found = []
    for layer in layers:
        operators = {
            name
            for node in module.graph.nodes
            if node.op == "call_function" and _layer(node) == layer
            for name in _computing(node, producers)
        }
        if not operators:
            raise CompressionError(
                f"layer {layer!r} is to keep its precision, but its operator is not found in "
                "OpenVINO's graph; build this model without the kind openvino"
            )
        found.extend(sorted(operators))
    return found


def operators_with_weights(graph: Any, types: Collection[str]) -> int:
    """How many convolutions and matrix products of ``graph`` have weights stored in one of
    ``types``, in OpenVINO's names: ``i8``, ``f32``, ..."""
    return sum(
        any(_stored_in(port.get_source_output().get_node()) in types for port in op.inputs())
        for op in graph.get_ops()
        if op.get_type_name() in _COMPUTING
    )


def _stored_in(op: Any) -> str | None:
    """Type of the constant that ``op``'s values are unpacked from; None for an activation."""
    while op.get_type_name() in _UNPACKING:
        op = op.input_value(0).get_node()
    return op.get_element_type().get_type_name() if op.get_type_name() == "Constant" else None


def _layer(node: Node) -> str | None:
    """The innermost module that the node is of."""
    stack = node.meta.get("nn_module_stack") or {}
    return next((path for path, _ in reversed(stack.values())), None)


def _computing(node: Node, producers: dict[str, Any]) -> list[str]:
    """The operator, at ``node`` or at what is fused with it, that multiplies by weights."""
    nodes = [node]
    while nodes:
        for each in nodes:
            op = _above(producers.get(each.name))
            if op is not None:
                return [op.get_friendly_name()]
        nodes = [user for each in nodes for user in each.users if _fused(user)]
    return []


def _fused(node: Node) -> bool:
    """Batch normalization, or one of its results."""
    return node.target is operator.getitem or "batch_norm" in str(node.target)


def _above(op: Any) -> Any:
    """``op`` or, through a bias that was added, the computing operator before it."""
    for _ in range(2):
        if op is None or op.get_type_name() in _COMPUTING:
            return op
        if op.get_type_name() not in ("Add", "Multiply"):
            return None
        op = op.input_value(0).get_node()
    return op if op is not None and op.get_type_name() in _COMPUTING else None

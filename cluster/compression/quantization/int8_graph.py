"""Data of a converted int8 graph: its tensors, activation ranges and number of int8 operators.

quantize_per_tensor → dequantize ┐
     int8 weight    → dequantize ┴→ convolution | linear     (torchao PT2E, before compilation)
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.fx import GraphModule, Node

from cluster.errors import CompressionError

ACTIVATION_SCALE = "activation_scale"
ACTIVATION_ZERO_POINT = "activation_zero_point"
_COMPUTING = ("aten.conv1d", "aten.conv2d", "aten.conv3d", "aten.linear", "aten.matmul")


def quantized_operators(graph: GraphModule) -> int:
    """Count convolutions and linear layers whose input and weight both come from integers."""

    def from_integers(node: object) -> bool:
        return isinstance(node, Node) and "dequantize" in str(node.target)

    return sum(
        str(node.target).startswith(_COMPUTING)
        and from_integers(node.args[0])
        and from_integers(node.args[1])
        for node in graph.graph.nodes
    )


def activation_ranges(graph: GraphModule) -> dict[str, list[float]]:
    """Return name of each quantized activation → the lowest and highest value that it can hold.

    An activation has the name of its layer, with the function's name if the layer's name does not
    contain it (``layer1.0 add``). Equal names are numbered.
    """
    ranges: dict[str, list[float]] = {}
    for node in _activation_nodes(graph):
        _, scale, zero, lowest, highest = node.args[:5]
        name = _readable(node.args[0])
        count = 2
        while (unique := name if count == 2 else f"{name} ({count - 1})") in ranges:
            count += 1
        ranges[unique] = [float((end - zero) * scale) for end in (lowest, highest)]  # type: ignore[operator, arg-type]
    return ranges


def int8_tensors(graph: GraphModule) -> dict[str, torch.Tensor]:
    """Return the tensors of a converted graph: int8 weights, scales, zero points, biases.

    They are named after their layers: ``conv1.weight`` (int8), ``conv1.weight_scale`` (float32,
    one per output channel), ``conv1.weight_zero_point``, ``conv1.bias``. The activations' scales
    and zero points are constants of the graph. They are added as two vectors in the order of
    the graph: float64 ``activation_scale`` and int64 ``activation_zero_point``.
    """
    tensors = {
        name: _attribute(graph, target).detach().clone(memory_format=torch.contiguous_format)
        for target, name in _names(graph).items()
    }
    activations = [node.args for node in _activation_nodes(graph)]
    tensors[ACTIVATION_SCALE] = torch.tensor([args[1] for args in activations], dtype=torch.float64)
    tensors[ACTIVATION_ZERO_POINT] = torch.tensor(
        [args[2] for args in activations], dtype=torch.int64
    )
    return tensors


def put_int8_tensors(graph: GraphModule, tensors: dict[str, torch.Tensor]) -> None:
    """Put the ``tensors`` of another conversion of the same architecture into a converted graph.

    CompressionError if they belong to another model.
    """
    for target, name in _names(graph).items():
        owner, _, leaf = target.rpartition(".")
        holder = graph.get_submodule(owner)
        if name not in tensors:
            raise CompressionError(f"the saved tensors lack {name!r}; was it another model?")
        if leaf in holder._parameters:
            holder._parameters[leaf] = torch.nn.Parameter(tensors[name], requires_grad=False)
        else:
            holder._buffers[leaf] = tensors[name]
    nodes = list(_activation_nodes(graph))
    scales, zeros = tensors[ACTIVATION_SCALE].tolist(), tensors[ACTIVATION_ZERO_POINT].tolist()
    if len(nodes) != len(scales):
        raise CompressionError(
            f"the saved tensors hold {len(scales)} activation scales, the model has {len(nodes)} "
            "quantized activations; was it another model, or were other layers kept?"
        )
    for node, scale, zero in zip(nodes, scales, zeros, strict=True):
        for operator in (node, *node.users):  # the users dequantize
            operator.args = (operator.args[0], scale, zero, *operator.args[3:])
    graph.recompile()


def _names(graph: GraphModule) -> dict[str, str]:
    """Return the graph's name of each tensor → its public name.

    Conversion names folded tensors ``_frozen_param7``; their use identifies them.
    """
    names: dict[str, str] = {}
    for node in graph.graph.nodes:
        target = str(node.target)
        if node.op != "get_attr" or target in names:
            continue
        name = _used_as(node) or target
        names[target] = target if name in names.values() else name
    return names


def _used_as(node: Node) -> str | None:
    dequantize = next(
        (user for user in node.users if "dequantize_per_channel" in str(user.target)), None
    )
    user = dequantize
    while user is not None and not str(user.target).startswith(_COMPUTING):
        user = next(iter(user.users), None)
    if dequantize is None or user is None:
        return None
    role = ("weight", "weight_scale", "weight_zero_point")[dequantize.args.index(node)]
    return f"{layer_of(user)}.{role}"


def _activation_nodes(graph: GraphModule) -> Iterator[Node]:
    return (
        node
        for node in graph.graph.nodes
        if str(node.target).startswith("quantized_decomposed.quantize_per_tensor")
    )


def layer_of(node: Node) -> str:
    """Return the path of the innermost module in which an exported graph's node was traced."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    path: str = stack[-1][0] if stack else ""
    # Strict export writes paths as expressions: L['self'].layer1.0, or with subscripts.
    return path.removeprefix("L['self']").strip(".")


def _readable(producer: object) -> str:
    if not isinstance(producer, Node):
        return str(producer)
    if producer.op == "placeholder":
        return producer.name
    layer = layer_of(producer)
    function = str(producer.target).removeprefix("aten.").partition(".")[0].rstrip("_")
    leaf = layer.rpartition(".")[2]
    return f"{layer} {function}".strip() if function not in leaf else layer


def _attribute(graph: GraphModule, name: str) -> torch.Tensor:
    owner, _, leaf = name.rpartition(".")
    tensor: torch.Tensor = getattr(graph.get_submodule(owner), leaf)
    return tensor

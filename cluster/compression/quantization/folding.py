"""Batch normalizations of an exported graph, folded into the layers before them or made affine.

layer → batch_norm              ⇒  layer with folded weights
layer → batch_norm, batch_norm  ⇒  layer → scale and shift, scale and shift

torchao folds as well, but it counts neither the other readers of a layer's output nor those of its
weights, and it takes statistics of the batch for constants. So nothing is left for it to fold.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import GraphModule, Node
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

_aten = torch.ops.aten

_CONVOLUTIONS = (
    _aten.conv1d.default,
    _aten.conv1d.padding,
    _aten.conv2d.default,
    _aten.conv2d.padding,
    _aten.conv3d.default,
    _aten.conv3d.padding,
)
_TRANSPOSED = (
    _aten.conv_transpose1d.default,
    _aten.conv_transpose2d.input,
    _aten.conv_transpose3d.input,
)
_LINEAR = (_aten.linear.default,)
_LAYERS = (*_CONVOLUTIONS, *_TRANSPOSED, *_LINEAR)

_GROUPS = 6
"""Position of a transposed convolution's groups among its arguments."""

_TRAINING, _EPSILON = 5, 7
"""Positions among the arguments of batch_norm."""


@dataclass(frozen=True)
class _Pair:
    """Operator, and a batch normalization that reads its output."""

    layer: Node
    norm: Node

    @property
    def weight(self) -> Any:
        return self.layer.args[1]

    @property
    def bias(self) -> Any:
        return self.layer.args[2] if len(self.layer.args) > 2 else None

    @property
    def constants(self) -> tuple[Any, ...]:
        """Weight, bias, scale, shift, mean and variance; None for a missing one."""
        return (self.weight, self.bias, *self.norm.args[1:_TRAINING])

    @property
    def folds_to(self) -> tuple[object, ...]:
        """Key that is equal for pairs that fold to equal weights."""
        return (*map(_name, self.constants), self.norm.args[_EPSILON])


def fold_batch_norms(graph: GraphModule) -> None:
    """Fold every batch normalization that can be, in place; make the others affine.

    One of computed statistics or weights stays, but not directly behind a layer. The names of new
    tensors depend on the graph alone, not on values.
    """
    variants: dict[tuple[object, ...], list[_Pair]] = {}
    others = []
    for pair in _pairs(graph):
        if _foldable(pair, graph):
            variants.setdefault(pair.folds_to, []).append(pair)
        else:
            others.append(pair)
    # Readers are counted, and tensors read, before any of them changes.
    names = {key: _new_names(key, variants, graph) for key in variants}
    tensors = {key: _folded(pairs[0], graph) for key, pairs in variants.items()}
    for pair in others:
        _separate(pair, graph)
    for key, pairs in variants.items():
        for name, tensor in zip(names[key], tensors[key], strict=True):
            _put(graph, name, tensor)
        for pair in pairs:
            _replace(pair, names[key], graph)
    graph.graph.eliminate_dead_code()
    graph.recompile()


def _pairs(graph: GraphModule) -> Iterable[_Pair]:
    for node in graph.graph.nodes:
        if node.target is _aten.batch_norm.default and not node.kwargs:
            yield _Pair(node.args[0], node)


def _foldable(pair: _Pair, graph: GraphModule) -> bool:
    """Return whether the operator is a layer that alone can compute both, exactly."""
    layer = pair.layer
    if layer.target not in _LAYERS or layer.kwargs or set(layer.users) != {pair.norm}:
        return False
    if not _is_constant(pair.norm) or not _are_constant(pair.weight, pair.bias):
        return False
    if layer.target in _TRANSPOSED and len(layer.args) > _GROUPS and layer.args[_GROUPS] != 1:
        return False  # weights [in, out / groups, ...] have no axis of all outputs
    # The channels are the second axis, which is a linear layer's last one only without others.
    return bool(layer.meta["val"].ndim == _tensor(graph, pair.weight.target).ndim)


def _is_constant(norm: Node) -> bool:
    """Return whether the normalization's statistics and weights are tensors of the module."""
    tensors = norm.args[1:_TRAINING]
    return not norm.args[_TRAINING] and None not in tensors[2:] and _are_constant(*tensors)


def _are_constant(*tensors: Any) -> bool:
    return all(node is None or node.op == "get_attr" for node in tensors)


def _new_names(
    key: tuple[object, ...], variants: dict[tuple[object, ...], list[_Pair]], graph: GraphModule
) -> tuple[str, str]:
    """Return names of the folded weight and bias: the layer's, unless others read these as well."""
    pair = variants[key][0]
    layers = {pair.layer for pair in variants[key]}
    name = str(pair.weight.target)
    if not _readers(name, graph) <= layers:
        same_weight = [other for other in variants if other[0] == key[0]]
        name = f"{name}_{same_weight.index(key)}"
    if pair.bias is not None and _readers(str(pair.bias.target), graph) <= layers:
        return name, str(pair.bias.target)
    return name, f"{name}_bias"


def _readers(name: str, graph: GraphModule) -> set[Node]:
    nodes = graph.graph.nodes
    return {user for node in nodes if _name(node) == name for user in node.users}


def _folded(pair: _Pair, graph: GraphModule) -> tuple[torch.Tensor, torch.Tensor]:
    weight, bias, scale, shift, mean, variance = (
        None if node is None else _tensor(graph, node.target) for node in pair.constants
    )
    arguments: list[Any] = [weight, bias, mean, variance, pair.norm.args[_EPSILON], scale, shift]
    if pair.layer.target in _LINEAR:
        return fuse_linear_bn_weights(*arguments)
    transposed: dict[str, Any] = {"transpose": pair.layer.target in _TRANSPOSED}
    return fuse_conv_bn_weights(*arguments, **transposed)


def _replace(pair: _Pair, names: tuple[str, str], graph: GraphModule) -> None:
    layer = pair.layer
    with graph.graph.inserting_before(layer):
        tensors = (_read_tensor(name, layer, graph) for name in names)
        layer.args = (layer.args[0], *tensors, *layer.args[3:])
    pair.norm.replace_all_uses_with(layer)
    graph.graph.erase_node(pair.norm)


def _separate(pair: _Pair, graph: GraphModule) -> None:
    """Replace a normalization by its scale and shift, or hide it from torchao behind an alias."""
    norm, nodes = pair.norm, graph.graph
    with nodes.inserting_before(norm):
        if not _is_constant(norm):
            source = nodes.call_function(_aten.alias.default, (pair.layer,))
            source.meta = {**norm.meta, "val": pair.layer.meta["val"]}
            norm.args = (source, *norm.args[1:])
            return
        scale, shift = (_read_tensor(name, norm, graph) for name in _affine(norm, graph))
        scaled = nodes.call_function(_aten.mul.Tensor, (pair.layer, scale))
        result = nodes.call_function(_aten.add.Tensor, (scaled, shift))
    for node in (scaled, result):
        node.meta = dict(norm.meta)
    norm.replace_all_uses_with(result)
    nodes.erase_node(norm)


def _affine(norm: Node, graph: GraphModule) -> tuple[str, str]:
    """Put the normalization's scale and shift into the module; return their names."""
    arguments: Any = norm.args
    weight, bias = (
        None if node is None else _tensor(graph, node.target) for node in arguments[1:3]
    )
    mean, variance = (_tensor(graph, node.target) for node in arguments[3:_TRAINING])
    scale = torch.rsqrt(variance + arguments[_EPSILON])
    scale = scale if weight is None else scale * weight
    shift = -mean * scale if bias is None else bias - mean * scale
    shape = (-1, *(1 for _ in norm.meta["val"].shape[2:]))
    owner = str(arguments[3].target).rpartition(".")[0]
    names = _free_name(f"{owner}.scale", graph), _free_name(f"{owner}.shift", graph)
    for name, tensor in zip(names, (scale, shift), strict=True):
        _put(graph, name, tensor.reshape(shape))
    return names


def _free_name(name: str, graph: GraphModule) -> str:
    """Return ``owner.leaf``, with a number if the owner has such an attribute."""
    owner, _, leaf = name.rpartition(".")
    holder, number, free = graph.get_submodule(owner), 0, leaf
    while hasattr(holder, free):
        number += 1
        free = f"{leaf}_{number}"
    return f"{owner}.{free}".lstrip(".")


def _read_tensor(name: str, reader: Node, graph: GraphModule) -> Node:
    """Insert a node that reads a tensor of the module, with the metadata of its only reader."""
    node = graph.graph.get_attr(name)
    value = reader.meta["val"].fake_mode.from_tensor(_tensor(graph, name), static_shapes=True)
    node.meta = {**reader.meta, "val": value}
    return node


def _name(node: Any) -> str | None:
    """Return the name of a node's tensor in the module; None for other nodes, and for None."""
    return str(node.target) if node is not None and node.op == "get_attr" else None


def _tensor(graph: GraphModule, name: Any) -> torch.Tensor:
    owner, _, leaf = str(name).rpartition(".")
    tensor: torch.Tensor = getattr(graph.get_submodule(owner), leaf)
    return tensor


def _put(graph: GraphModule, name: str, tensor: torch.Tensor) -> None:
    owner, _, leaf = name.rpartition(".")
    holder = graph.get_submodule(owner)
    holder._buffers.pop(leaf, None)
    holder.register_parameter(leaf, torch.nn.Parameter(tensor.detach(), requires_grad=False))

"""Rebuilding of a pruned model: its tensors in a fresh module of full size, bit-exact.

    model source → module, full size ─┐
    weights.safetensors → tensors ────┴─ fit ─→ the pruned model

A pruned model is its source's code with smaller tensors. Modules also store sizes beside their
tensors (``in_channels``, ``normalized_shape``, ...). :func:`align` updates these from the tensors,
here and after pruning.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from cluster.errors import SourceError
from cluster.models.shortcuts import SUBSAMPLING, SelectionShortcut, put

_SHOWN = 5


def fit(module: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Replace the state of a freshly built ``module`` by ``tensors``, by name and of any sizes.

    Tensors become the module's own, uncopied, in their own dtype. Selection shortcuts that pruning
    inserted are inserted again.

    Raises :class:`SourceError` for missing or unknown names, or a different number of dimensions;
    the module is then unchanged, apart from inserted shortcuts.
    """
    state = module.state_dict()
    for name in tensors.keys() - state.keys():
        layer, _, last = name.rpartition(".")
        if last == SUBSAMPLING and layer in dict(module.named_modules()):
            height, width = tensors[name].tolist()
            put(module, layer, SelectionShortcut(tensors[f"{layer}.weight"], (height, width)))
    _check(module.state_dict(), tensors)
    replaced: dict[nn.Parameter, nn.Parameter] = {}
    for prefix, part in module.named_modules(remove_duplicate=False):
        for name, old in part._parameters.items():
            if old is not None:
                tensor = tensors[f"{prefix}.{name}".lstrip(".")]
                new = replaced.get(old)
                # Parameters that share memory continue to share it.
                if new is None or not torch.equal(new, tensor):
                    new = nn.Parameter(tensor, old.requires_grad)
                part._parameters[name] = replaced[new] = replaced[old] = new
        for name in part._buffers.keys() - part._non_persistent_buffers_set:
            if part._buffers[name] is not None:
                part._buffers[name] = tensors[f"{prefix}.{name}".lstrip(".")]
    align(module)


def _check(state: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor]) -> None:
    problems = []
    for title, names in (
        ("missing", [name for name in state if name not in tensors]),
        ("unknown to the model", [name for name in tensors if name not in state]),
        (
            "with another number of dimensions",
            [name for name in state if name in tensors and state[name].ndim != tensors[name].ndim],
        ),
    ):
        if names:
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            problems.append(f"{title}: {', '.join(names[:_SHOWN])}{more}")
    if problems:
        raise SourceError(
            f"the tensors do not match the model to rebuild ({'; '.join(problems)}); use the "
            "model source with which they were saved"
        )


def align(module: nn.Module) -> None:
    """Update the size attributes of all submodules from their tensors.

    Only from a module's own tensors: its children may not have been updated yet.
    """
    for part in module.modules():
        for kind, sizes in _SIZES.items():
            if isinstance(part, kind):
                sizes(part)
        # These two read their own sizes in forward. Their attributes identify them, so that neither
        # torchvision nor transformers is imported for other models.
        if isinstance(getattr(part, "conv_proj", None), nn.Conv2d) and hasattr(part, "hidden_dim"):
            _vision_transformer(part)
        if is_self_attention(part):
            _self_attention(part)


def _convolution(layer: _ConvNd) -> None:
    weight = layer.weight
    if layer.transposed:
        layer.in_channels, layer.out_channels = weight.shape[0], weight.shape[1] * layer.groups
        return
    if layer.groups > 1 and layer.groups == layer.in_channels == layer.out_channels:
        layer.groups = weight.shape[0]  # depthwise: one group per remaining channel
    layer.out_channels, layer.in_channels = weight.shape[0], weight.shape[1] * layer.groups


def _linear(layer: nn.Linear) -> None:
    layer.out_features, layer.in_features = layer.weight.shape


def _batch_norm(layer: _BatchNorm) -> None:
    tensor = layer.weight if layer.affine else layer.running_mean
    if tensor is not None:
        layer.num_features = tensor.shape[0]


def _layer_norm(layer: nn.LayerNorm) -> None:
    if layer.elementwise_affine:
        layer.normalized_shape = tuple(layer.weight.shape)


def _group_norm(layer: nn.GroupNorm) -> None:
    if layer.affine:
        layer.num_channels = layer.weight.shape[0]


def _embedding(layer: nn.Embedding) -> None:
    layer.num_embeddings, layer.embedding_dim = layer.weight.shape


def _prelu(layer: nn.PReLU) -> None:
    layer.num_parameters = layer.weight.shape[0]


def _attention(layer: nn.MultiheadAttention) -> None:
    # torch-pruning narrows all heads equally: their number stays.
    layer.embed_dim = layer.kdim = layer.vdim = layer.out_proj.weight.shape[0]
    if layer.k_proj_weight is not None:
        layer.kdim, layer.vdim = layer.k_proj_weight.shape[1], layer.v_proj_weight.shape[1]
    layer.head_dim = layer.embed_dim // layer.num_heads


def is_self_attention(part: nn.Module) -> bool:
    """Whether ``part`` is self-attention of BERT-like Transformers models.

    Its marks are linear layers ``query``, ``key`` and ``value``, and the attributes
    ``num_attention_heads``, ``attention_head_size`` and ``all_head_size``.
    """
    return all(
        isinstance(getattr(part, name, None), nn.Linear) for name in ("query", "key", "value")
    ) and all(
        hasattr(part, name)
        for name in ("num_attention_heads", "attention_head_size", "all_head_size")
    )


def _self_attention(layer: Any) -> None:
    # Whole heads are removed, so their size stays.
    layer.all_head_size = layer.query.weight.shape[0]
    layer.num_attention_heads = layer.all_head_size // layer.attention_head_size


def _vision_transformer(model: Any) -> None:
    model.hidden_dim = model.conv_proj.weight.shape[0]


_SIZES: dict[type[nn.Module], Callable] = {
    _ConvNd: _convolution,
    nn.Linear: _linear,
    _BatchNorm: _batch_norm,
    nn.LayerNorm: _layer_norm,
    nn.GroupNorm: _group_norm,
    nn.Embedding: _embedding,
    nn.PReLU: _prelu,
    nn.MultiheadAttention: _attention,
}

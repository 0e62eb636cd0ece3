"""One rank's share of one layer: cut tensors, and the modules that replace the layer.

column:  weight [out, in] → some of its rows; bias and scales likewise
row:     weight [out, in] → some of its columns; scales whole; bias whole, after the all-reduce
int8:    integers and scales are cut, never requantized
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrize

from cluster.config.parallel import Sliced

_PACKED = 32
"""Inputs per vector of oneDNN's kernel for int8 weights, which reads whole vectors."""

_CUT_WITH_OUTPUTS = {"qdata", "scale", "zero_point"}
_INT8_PER_OUTPUT = "Int8Tensor per output"


@dataclass(frozen=True)
class Share:
    """One of ``degree`` equal parts. Each of ``fused`` adjacent matrices is cut separately."""

    rank: int
    degree: int
    fused: int = 1

    def of(self, tensor: torch.Tensor, dim: int) -> torch.Tensor:
        """Return the part along ``dim`` in new memory, equal to this rank's ``Shard(dim)``."""
        matrices = tensor.chunk(self.fused, dim)
        parts = [matrix.chunk(self.degree, dim)[self.rank] for matrix in matrices]
        part = torch.cat(parts, dim) if len(parts) > 1 else parts[0]
        part = part.detach().clone(memory_format=torch.contiguous_format)
        if isinstance(tensor, nn.Parameter):
            return nn.Parameter(part, requires_grad=tensor.requires_grad)
        return part


class RowParallel(nn.Module):
    """Row layer: partial sum over this rank's inputs, all-reduce, bias."""

    def __init__(self, layer: nn.Module, bias: torch.Tensor | None) -> None:
        super().__init__()
        self.layer = layer
        self.bias = bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        total: torch.Tensor = torch.ops.headrace.all_reduce(self.layer(x))
        return total if self.bias is None else total + self.bias.to(total.dtype)


class SlicedAttention(nn.Module):
    """One rank's heads of an ``nn.MultiheadAttention``, in eval mode, without masks."""

    def __init__(self, attention: nn.MultiheadAttention, share: Share) -> None:
        super().__init__()
        projections = Share(share.rank, share.degree, fused=3)
        self.head_dim = attention.head_dim
        self.batch_first = attention.batch_first
        self.in_proj_weight = projections.of(attention.in_proj_weight, 0)
        bias = attention.in_proj_bias
        self.in_proj_bias = None if bias is None else projections.of(bias, 0)
        self.out_proj = slice_layer(attention.out_proj, "row", share)

    def forward(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **options: Any
    ) -> tuple[torch.Tensor, None]:
        if options.pop("need_weights", True) or any(o is not None for o in options.values()):
            raise ValueError(
                "a sliced nn.MultiheadAttention expects need_weights=False and no masks"
            )
        if query is key and key is value:
            q, k, v = functional.linear(query, self.in_proj_weight, self.in_proj_bias).chunk(3, -1)
        else:
            weights = self.in_proj_weight.chunk(3)
            no_bias = (None, None, None)
            biases = no_bias if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
            q, k, v = map(functional.linear, (query, key, value), weights, biases)
        attended = functional.scaled_dot_product_attention(
            self._heads(q), self._heads(k), self._heads(v)
        )
        merged = attended.transpose(1, 2).flatten(2)
        return self.out_proj(merged if self.batch_first else merged.transpose(0, 1)), None

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``x`` as ``[batch, heads, tokens, head_dim]``."""
        x = x if self.batch_first else x.transpose(0, 1)
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)


def refusal(layer: nn.Module) -> str | None:
    """Return why a layer cannot be cut at any degree, with alternatives, or None."""
    if isinstance(layer, nn.MultiheadAttention):
        if layer.in_proj_weight is None or layer.bias_k is not None or layer.add_zero_attn:
            return "kdim, vdim, bias_kv and add_zero_attn are not supported"
        return None
    if parametrize.is_parametrized(layer, "weight"):
        stored = _stored_as(layer)
        if stored != _INT8_PER_OUTPUT:
            return (
                f"its weight is stored as {stored}, and a cut would split its groups or packing; "
                "quantize with dynamic_int8, weight_only_int8 or bf16 instead"
            )
        return None
    if isinstance(layer, nn.Linear) or _is_conv1d(layer) or _is_int8(layer):
        return None
    return f"it is a {type(layer).__name__}; only linear layers can be cut"


def sizes(layer: Any) -> tuple[int, int]:
    """Return (inputs, outputs) of a layer that can be cut."""
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    if _is_conv1d(layer):
        return layer.nx, layer.nf
    return layer.weight.shape[1], layer.weight.shape[0]


def input_multiple(layer: nn.Module) -> int:
    """Return the number of which a rank's inputs of a row layer must be a multiple."""
    return _PACKED if _is_int8(layer) else 1


def slice_layer(layer: nn.Module, style: Sliced, share: Share) -> nn.Module:
    """Return the rank's share of a layer, including its hooks; ``layer`` is unchanged."""
    parts: dict[int, Any] = {}
    for tensor, out_dim, in_dim in _tensors(layer):
        dim = out_dim if style == "column" else in_dim
        if dim is not None:
            parts[id(tensor)] = share.of(tensor, dim)
    new = copy.deepcopy(layer, parts)
    _resize(new, style, share.degree)
    if style == "column":
        return new
    bias: torch.Tensor | None = new.bias  # type: ignore[assignment]
    new.bias = None  # type: ignore[assignment]
    return RowParallel(_without_bias(new), bias)


def _tensors(layer: Any) -> list[tuple[torch.Tensor, int | None, int | None]]:
    """Return the layer's tensors except a row layer's bias, with the axes of outputs and inputs."""
    bias: Any = layer.bias
    tensors: list[tuple[Any, int | None, int | None]] = (
        [(bias, 0, None)] if bias is not None else []
    )
    if parametrize.is_parametrized(layer, "weight"):
        stored = layer.parametrizations["weight"]
        names = stored[0].rebuild_stack[0][2]
        for index, name in enumerate(names):
            tensor = getattr(stored, f"original{index}" if len(names) > 1 else "original")
            tensors.append((tensor, 0, 1 if name == "qdata" else None))
    elif _is_conv1d(layer):
        tensors.append((layer.weight, 1, 0))
    else:
        tensors.append((layer.weight, 0, 1))
        if _is_int8(layer):
            tensors.append((layer.scale, 0, None))
    return tensors


def _resize(new: Any, style: Sliced, degree: int) -> None:
    """Update the size attributes to match the cut tensors."""
    if isinstance(new, nn.Linear):
        if style == "column":
            new.out_features //= degree
        else:
            new.in_features //= degree
    elif _is_conv1d(new):
        if style == "column":
            new.nf = new.nf // degree
        else:
            new.nx = new.nx // degree
    if parametrize.is_parametrized(new, "weight"):
        unwrap = new.parametrizations["weight"][0]
        (kind, facts, names) = unwrap.rebuild_stack[0]
        block = [1, new.in_features]
        unwrap.rebuild_stack = [(kind, facts | {"block_size": block}, names)]


def _without_bias(layer: Any) -> nn.Module:
    if not _is_conv1d(layer):
        return layer
    weight = layer.weight
    linear = nn.Linear(weight.shape[0], weight.shape[1], bias=False, device="meta")
    linear.weight = nn.Parameter(weight.detach().t().contiguous(), weight.requires_grad)
    return linear


def _stored_as(layer: Any) -> str:
    stored = layer.parametrizations["weight"]
    stack = getattr(stored[0], "rebuild_stack", [])
    if len(stack) != 1:
        return type(stored[0]).__name__
    kind, facts, names = stack[0]
    per_output = facts.get("block_size", [None])[0] == 1 and set(names) <= _CUT_WITH_OUTPUTS
    return str(kind.__name__) + (" per output" if per_output else "")


def _is_conv1d(layer: nn.Module) -> bool:
    """Whether this is Transformers' transposed linear layer, without importing Transformers."""
    return type(layer).__name__ == "Conv1D" and hasattr(layer, "nf") and hasattr(layer, "nx")


def _is_int8(layer: nn.Module) -> bool:
    """Whether the layer has int8 weights ``[out, in]`` with a scale per output."""
    weight, scale = getattr(layer, "weight", None), getattr(layer, "scale", None)
    return (
        isinstance(weight, torch.Tensor)
        and isinstance(scale, torch.Tensor)
        and weight.dtype == torch.int8
        and scale.shape == weight.shape[:1]
    )

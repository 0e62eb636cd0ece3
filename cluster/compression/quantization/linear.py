"""Schemes for linear layers: int8 with ranges at run time, weights only, float8.

module ─→ every linear layer of the scheme: weight → torchao tensor (integers and scales) ─┐
                                                                                           ↓
                      torch.export sees plain tensors ← unwrapped: a parametrization per layer

dynamic_int8 leaves the rest of the model in float32. The other schemes compute in bfloat16, as
their kernels require, so their other layers are bfloat16 anyway.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from cluster.compression.quantization.fake_quantize import INT8_MOST, int4_group, row_scales
from cluster.compression.quantization.half_precision import in_half, keep_in_half
from cluster.compression.quantization.scheme import QuantizedModel, is_linear
from cluster.compression.work import Job, tensors_of
from cluster.config.recipe import Recipe
from cluster.config.steps import Quantize
from cluster.tensors import TensorSpec

FLOAT8_CAPABILITY = (8, 9)


# ---------------------------------------------------------------------------- dynamic int8


def dynamic_int8(
    module: nn.Module,
    inputs: tuple[TensorSpec, ...],
    in_bfloat16: tuple[str, ...],
    step: Quantize,
    job: Job,
) -> QuantizedModel:
    """Quantize weights to int8 per output channel, and activations to int8 by a scale per token.

    PT2E's dynamic scheme has one scale per batch. A scale per token keeps an answer independent of
    the other requests in its batch.
    """
    # torchao takes half a second to import, and only some schemes need it.
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig

    keep_in_half(module, in_bfloat16, torch.bfloat16)
    config = Int8DynamicActivationInt8WeightConfig(set_inductor_config=False)
    return _converted(module, module, _chosen(module, is_linear, in_bfloat16), lambda layer: config)


# ---------------------------------------------------------------------------- weights alone


class Int8WeightLinear(nn.Module):
    """Linear layer whose weight is int8 ``[out, in]`` with a bfloat16 scale per output.

    torchao's own layer multiplies by ``weight.to(bfloat16)``, which a compiler with frozen
    weights computes once and stores: twice the bytes. This operator reads int8 directly.
    """

    weight: torch.Tensor
    scale: torch.Tensor

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        full = layer.weight.detach().float()
        scale = row_scales(full, INT8_MOST)
        integers = (full / scale.unsqueeze(1)).round().to(torch.int8)
        self.register_buffer("weight", integers)
        self.register_buffer("scale", scale.to(torch.bfloat16))
        self.bias = layer.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.reshape(-1, x.shape[-1])
        if x.dtype != self.scale.dtype:  # in a model whose other tensors are float32
            rows = rows.to(self.scale.dtype)
        product = torch.ops.aten._weight_int8pack_mm(rows, self.weight, self.scale)
        output = product.reshape(*x.shape[:-1], product.shape[-1])
        output = output if self.bias is None else output + self.bias
        return output if x.dtype == output.dtype else output.to(x.dtype)


def takes_weight_only_int8(layer: nn.Module) -> bool:
    # oneDNN's kernel reads whole vectors of 32 inputs: 37 inputs crash the process.
    return is_linear(layer) and layer.in_features % 32 == 0


def weight_only_int8(
    module: nn.Module,
    inputs: tuple[TensorSpec, ...],
    in_bfloat16: tuple[str, ...],
    step: Quantize,
    job: Job,
) -> QuantizedModel:
    """Quantize weights to int8 per output channel, everything else to bfloat16."""
    low = in_half(module, torch.bfloat16, job)
    chosen = _chosen(low.module, takes_weight_only_int8, in_bfloat16)
    for name, layer in chosen.items():
        low.module.set_submodule(name, Int8WeightLinear(layer))
    return QuantizedModel(low, lambda: tensors_of(low.module), len(chosen))


def takes_weight_only_int4(layer: nn.Module) -> bool:
    return is_linear(layer) and layer.in_features % 32 == 0 and layer.out_features % 16 == 0


def weight_only_int4(
    module: nn.Module,
    inputs: tuple[TensorSpec, ...],
    in_bfloat16: tuple[str, ...],
    step: Quantize,
    job: Job,
) -> QuantizedModel:
    """Quantize weights to int4 in groups of 128 inputs, or of 64 or 32 if 128 does not divide."""
    from torchao.prototype.quantization.int4.inference_workflow import (
        PrototypeInt4WeightOnlyConfig,
    )

    low = in_half(module, torch.bfloat16, job)

    def config(layer: nn.Linear) -> Any:
        return PrototypeInt4WeightOnlyConfig(
            group_size=int4_group(layer.in_features), set_inductor_config=False
        )

    chosen = _chosen(low.module, takes_weight_only_int4, in_bfloat16)
    return _converted(low.module, low, chosen, config)


# ---------------------------------------------------------------------------- float8


def takes_float8(layer: nn.Module) -> bool:
    return is_linear(layer) and layer.in_features % 16 == 0 and layer.out_features % 16 == 0


def float8(
    module: nn.Module,
    inputs: tuple[TensorSpec, ...],
    in_bfloat16: tuple[str, ...],
    step: Quantize,
    job: Job,
) -> QuantizedModel:
    """Quantize weights per output channel and activations per token to float8 (e4m3).

    Products are in bfloat16.
    """
    from torchao.quantization import Float8DynamicActivationFloat8WeightConfig, PerRow

    low = in_half(module, torch.bfloat16, job)
    config = Float8DynamicActivationFloat8WeightConfig(
        granularity=PerRow(), set_inductor_config=False
    )
    chosen = _chosen(low.module, takes_float8, in_bfloat16)
    return _converted(low.module, low, chosen, lambda layer: config)


def float8_refusal(recipe: Recipe) -> str | None:
    """Return why float8 cannot run on the recipe's targets or this machine's GPU, or None."""
    if other_targets := _targets_without(recipe, "cuda"):
        reason = other_targets
    elif not torch.cuda.is_available():
        reason = "this machine has no CUDA device"
    elif (capability := torch.cuda.get_device_capability()) < FLOAT8_CAPABILITY:
        reason = f"{torch.cuda.get_device_name()} has {capability[0]}.{capability[1]}"
    else:
        return None
    least = ".".join(map(str, FLOAT8_CAPABILITY))
    return f"float8 matrix products need CUDA of compute capability {least} or more, and {reason}"


# ---------------------------------------------------------------------------- shared


def cpu_refusal(recipe: Recipe) -> str | None:
    """Return why a scheme of x86 kernels fits no target of the recipe, or None."""
    reason = _targets_without(recipe, "cpu")
    return reason and f"its kernels are for CPUs, and {reason}"


def _targets_without(recipe: Recipe, device: str) -> str | None:
    """Return the recipe's targets, as a clause, if none of them is a ``device``."""
    targets = [program.target for program in recipe.programs]
    if any(target.startswith(device) for target in targets):
        return None
    return f"the recipe's targets are {', '.join(targets)}"


def _chosen(
    module: nn.Module, takes: Callable[[nn.Module], bool], in_bfloat16: tuple[str, ...]
) -> dict[str, nn.Linear]:
    return {
        name: layer
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear) and takes(layer) and name not in in_bfloat16
    }


def _converted(
    module: nn.Module,
    outer: nn.Module,
    chosen: dict[str, nn.Linear],
    config: Callable[[nn.Linear], Any],
) -> QuantizedModel:
    """Quantize the ``chosen`` layers of ``module`` by torchao; ``outer`` is the called module."""
    from torchao.quantization import quantize_
    from torchao.utils import TorchAOBaseTensor, unwrap_tensor_subclass

    inner_names: dict[str, list[str]] = {}
    for name, layer in chosen.items():
        quantize_(layer, config(layer), filter_fn=lambda *_: True)
        if isinstance(layer.weight, TorchAOBaseTensor):
            inner_names[name] = layer.weight.__tensor_flatten__()[0]
    # torch.export and AOTInductor accept plain tensors only.
    unwrap_tensor_subclass(outer)
    return QuantizedModel(outer, lambda: _plain_tensors(module, inner_names), len(inner_names))


def _plain_tensors(module: nn.Module, inner_names: dict[str, list[str]]) -> dict[str, torch.Tensor]:
    """Return the state, with a quantized weight's parts as ``layer.weight.qdata`` and so on."""
    readable = {
        f"{layer}.parametrizations.weight.original{i if len(names) > 1 else ''}": (
            f"{layer}.weight.{inner}"
        )
        for layer, names in inner_names.items()
        for i, inner in enumerate(names)
    }
    return {readable.get(name, name): tensor for name, tensor in tensors_of(module).items()}

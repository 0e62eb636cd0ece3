"""The ``quantize`` step: a table of schemes, each refusing to quantize nothing.

float module ─→ [training: fine-tuned with rounded layers] ─→ bfloat16 layers ─→ SCHEMES → module
       └───────────────── unchanged: Precision.float_module
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import torch
from torch import nn

from cluster.compression.quantization import linear, static_int8
from cluster.compression.quantization.fake_quantize import Rounding, fake_quantized
from cluster.compression.quantization.half_precision import in_half
from cluster.compression.quantization.mixed_precision import bfloat16_layers, named_layers
from cluster.compression.quantization.scheme import COMPUTING, QuantizedModel, Scheme, is_linear
from cluster.compression.training.train import recover
from cluster.compression.work import Job, Precision, Work, tensors_of
from cluster.config.recipe import Recipe
from cluster.config.steps import Quantize
from cluster.errors import CompressionError
from cluster.models import copy_of
from cluster.tensors import TensorSpec


def quantize(work: Work, step: Quantize, job: Job) -> Work:
    """Quantize the model by the scheme of ``step``.

    The result's ``precision.float_module`` is ``work.module``, unchanged in float32, or a
    fine-tuned copy after quantization-aware training. CompressionError if the scheme would change
    no operator, or if this machine or the recipe's targets cannot run it.
    """
    check_targets(step, job.recipe)
    scheme = SCHEMES[step.scheme]
    float_module = work.module.eval()
    named = named_layers(float_module, scheme, step)
    layers = [name for name in scheme.layers(float_module) if name not in named]
    if step.training and scheme.rounding and layers:
        float_module = copy_of(float_module)
        with fake_quantized(float_module, layers, scheme.rounding):
            recover(float_module, step.training, job, work.inputs)
    in_bfloat16 = bfloat16_layers(float_module, scheme, step, job)
    converted = scheme.convert(copy_of(float_module), work.inputs, in_bfloat16, step, job)
    if converted.operators == 0:
        raise _nothing_quantized(step, scheme, float_module, in_bfloat16)
    job.out(f"quantize {step.scheme}: {converted.operators} operators")
    precision = Precision(step, float_module, converted.operators, in_bfloat16, converted.whole)
    return Work(converted.module, work.inputs, converted.weights, precision)


def check_targets(step: Quantize, recipe: Recipe) -> None:
    """Raise CompressionError if this machine or the recipe's targets cannot run the scheme."""
    if reason := SCHEMES[step.scheme].refusal(recipe):
        raise CompressionError(f"scheme {step.scheme}: {reason}; choose another scheme or target")


def check_layers(step: Quantize, module: nn.Module) -> None:
    """Raise CompressionError if ``step.keep`` names no layer, or the scheme applies to none.

    A static scheme also quantizes functions that are no layers.
    """
    scheme = SCHEMES[step.scheme]
    named_layers(module, scheme, step)
    if not scheme.layers(module) and step.scheme != "static_int8":
        raise _nothing_quantized(step, scheme, module, ())


def _nothing_quantized(
    step: Quantize, scheme: Scheme, module: nn.Module, in_bfloat16: tuple[str, ...]
) -> CompressionError:
    leaves = Counter(type(layer).__name__ for layer in module.modules() if not [*layer.children()])
    layers = ", ".join(f"{count} {kind}" for kind, count in leaves.most_common(6)) or "no layer"
    exempt = f", and {len(in_bfloat16)} layers are kept in bfloat16" if in_bfloat16 else ""
    return CompressionError(
        f"scheme {step.scheme} quantized none of this model's operators: it applies to "
        f"{scheme.applies_to}; the model has {layers}{exempt}. Choose another scheme or remove "
        "the step"
    )


def _half(dtype: torch.dtype) -> Callable[..., QuantizedModel]:
    def convert(
        module: nn.Module,
        inputs: tuple[TensorSpec, ...],
        in_bfloat16: tuple[str, ...],
        step: Quantize,
        job: Job,
    ) -> QuantizedModel:
        low = in_half(module, dtype, job)
        count = sum(map(_computes, low.module.modules()))
        return QuantizedModel(low, lambda: tensors_of(low.module), count, low.whole)

    return convert


def _computes(layer: nn.Module) -> bool:
    return isinstance(layer, COMPUTING)


SCHEMES: dict[str, Scheme] = {
    "static_int8": Scheme(
        applies_to="linear layers, and convolutions along one or two axes of more than one channel",
        takes=static_int8.takes,
        convert=static_int8.convert,
        rounding=Rounding(weight="int8", input="tensor"),
        refusal=linear.cpu_refusal,
    ),
    "dynamic_int8": Scheme(
        applies_to="linear layers",
        takes=is_linear,
        convert=linear.dynamic_int8,
        rounding=Rounding(weight="int8", input="token"),
    ),
    "weight_only_int8": Scheme(
        applies_to="linear layers whose number of inputs is a multiple of 32",
        takes=linear.takes_weight_only_int8,
        convert=linear.weight_only_int8,
        rounding=Rounding(weight="int8", input=None),
    ),
    "weight_only_int4": Scheme(
        applies_to="linear layers with a multiple of 32 inputs and of 16 outputs",
        takes=linear.takes_weight_only_int4,
        convert=linear.weight_only_int4,
        rounding=Rounding(weight="int4", input=None),
        refusal=linear.cpu_refusal,
    ),
    "bf16": Scheme(
        applies_to="linear layers and convolutions",
        takes=_computes,
        convert=_half(torch.bfloat16),
    ),
    "fp16": Scheme(
        applies_to="linear layers and convolutions",
        takes=_computes,
        convert=_half(torch.float16),
    ),
    "float8": Scheme(
        applies_to="linear layers with multiples of 16 inputs and outputs",
        takes=linear.takes_float8,
        convert=linear.float8,
        rounding=Rounding(weight="float8", input="token_float8"),
        refusal=linear.float8_refusal,
    ),
}
"""Name of a scheme in a recipe → the scheme."""

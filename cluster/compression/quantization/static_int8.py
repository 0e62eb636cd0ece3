"""static_int8: int8 weights and calibrated uint8 activations, for x86 (torchao PT2E).

float module → some layers to bfloat16 → export → normalizations folded → observers
    ─ still the model? → calibration → int8 graph ─ rounded as calibrated?
    restore: without calibration → saved tensors
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import nn
from torch.fx import GraphModule, Node

from cluster.compression.equivalence import check_rewrite, outputs_of
from cluster.compression.export import exported
from cluster.compression.probes import MAX_FLOAT_DIFFERENCE, Probes, difference
from cluster.compression.quantization.folding import fold_batch_norms
from cluster.compression.quantization.functional import functional
from cluster.compression.quantization.half_precision import keep_in_half
from cluster.compression.quantization.int8_graph import (
    activation_ranges,
    int8_tensors,
    layer_of,
    put_int8_tensors,
    quantized_operators,
)
from cluster.compression.quantization.observed import rounded, unrounded
from cluster.compression.quantization.scheme import QuantizedModel, is_linear
from cluster.compression.work import Job
from cluster.config.steps import Quantize
from cluster.errors import CompressionError
from cluster.program.node import cpus
from cluster.progress import Bar
from cluster.tensors import TensorSpec

_CALIBRATION_BATCH = 32
_ADVICE = "name the layers around it in quantize.keep, or choose another scheme"
_SMALLEST_SCALE = 2**-12
"""Smallest scale of the quantizer's configuration; below it, oneDNN's int8 sums lose precision."""


def takes(layer: nn.Module) -> bool:
    """Return whether a layer is linear, or a 1D or 2D convolution of more than one channel."""
    if isinstance(layer, nn.Conv1d | nn.Conv2d):
        return layer.in_channels > 1
    return is_linear(layer)


def convert(
    module: nn.Module,
    inputs: tuple[TensorSpec, ...],
    in_bfloat16: tuple[str, ...],
    step: Quantize,
    job: Job,
) -> QuantizedModel:
    """Calibrate on the first training samples and convert; ``job.details`` gets ``ranges``."""
    torch.set_num_threads(cpus())
    batch = job.recipe.model.max_batch_size
    observed = prepare(module, inputs, in_bfloat16, step, batch)
    check_rewrite(unrounded(observed), module, job.probes, "torchao's prepared graph", _ADVICE)
    count = min(step.calibration_samples, len(job.train))
    bar = Bar("calibrate", count, job.out)
    with torch.no_grad():
        for start in range(0, count, batch or _CALIBRATION_BATCH):
            end = min(start + (batch or _CALIBRATION_BATCH), count)
            arrays, _ = job.train.batch(range(start, end))
            observed(*(torch.from_numpy(array) for array in arrays))
            bar.update(end)
    simulated = outputs_of(rounded(observed), job.probes)
    graph = _converted(observed)
    _check_conversion(graph, simulated, job.probes)
    job.details["ranges"] = activation_ranges(graph)
    return QuantizedModel(graph, lambda: int8_tensors(graph), quantized_operators(graph))


def _check_conversion(graph: GraphModule, simulated: list[np.ndarray], probes: Probes) -> None:
    """Raise CompressionError unless the converted graph rounds as its observers would."""
    distance = difference(outputs_of(graph, probes), simulated)
    if not distance <= MAX_FLOAT_DIFFERENCE:
        raise CompressionError(
            "torchao's converted graph does not round as it was calibrated: its outputs differ by "
            f"{distance:.4g} of their spread on {probes.described}, at most "
            f"{MAX_FLOAT_DIFFERENCE:g} is the order of sums; {_ADVICE}"
        )


def restore_int8(
    module: nn.Module,
    inputs: tuple[TensorSpec, ...],
    tensors: dict[str, torch.Tensor],
    in_bfloat16: tuple[str, ...] = (),
) -> GraphModule:
    """Return the converted graph of ``module`` with the saved ``tensors``.

    It is the inverse of :func:`~cluster.compression.quantization.int8_graph.int8_tensors`, bit for
    bit, with the same PyTorch and torchao. ``module`` defines the architecture and is changed; its
    weights do not matter. ``in_bfloat16``: the layers that are not quantized.
    """
    step = Quantize(kind="quantize", scheme="static_int8", calibration="minmax")
    graph = _converted(prepare(module, inputs, in_bfloat16, step))
    put_int8_tensors(graph, tensors)
    return graph


def prepare(
    module: nn.Module,
    inputs: tuple[TensorSpec, ...],
    in_bfloat16: tuple[str, ...],
    step: Quantize,
    batch: int | None = None,
) -> GraphModule:
    """Return the module's graph with observers; the named layers of the module become bfloat16."""
    # torchao takes half a second to import, and only this scheme needs it.
    from torchao.quantization.pt2e.quantize_pt2e import prepare_pt2e
    from torchao.quantization.pt2e.quantizer import QuantizationAnnotation
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86
    from torchao.quantization.pt2e.quantizer.quantizer import Q_ANNOTATION_KEY

    from cluster.compression.quantization.observers import observer

    keep_in_half(module, in_bfloat16, torch.bfloat16)
    # strict: without it the quantizer finds fewer patterns and fails on reused ReLU modules.
    graph = functional(exported(module.eval(), inputs, strict=True, batch=batch))
    fold_batch_norms(graph)
    config = x86.get_default_x86_inductor_quantization_config()
    activation = dataclasses.replace(
        config.input_activation,
        observer_or_fake_quant_ctr=observer(step, eps=_SMALLEST_SCALE),
    )
    quantizer = x86.X86InductorQuantizer()
    quantizer.set_global(
        dataclasses.replace(config, input_activation=activation, output_activation=activation)
    )
    # With a dynamic batch, Inductor reads the result of an int8 convolution of one channel as
    # channels first, but oneDNN writes it channels last: such a convolution stays float.
    # The quantizer skips nodes that are marked as annotated.
    for node in graph.graph.nodes:
        exempt = _belongs_to(node, in_bfloat16)
        if exempt or _convolves_one_channel(node):
            node.meta[Q_ANNOTATION_KEY] = QuantizationAnnotation(_annotated=True)
        if exempt:
            # The quantizer looks nodes up by their module, and fails on a convolution module with
            # further operators, such as the casts around a bfloat16 one.
            node.meta["source_fn_stack"] = [(node.name, "kept in bfloat16")]
    try:
        prepared: GraphModule = prepare_pt2e(graph, quantizer)
    # torchao's errors for graphs that it does not know have no common base.
    except Exception as error:
        raise _not_quantizable(error) from error
    return prepared


def _belongs_to(node: Node, layers: tuple[str, ...]) -> bool:
    """Return whether the node is an operator or a parameter of one of the layers."""
    owner = str(node.target).rpartition(".")[0] if node.op == "get_attr" else layer_of(node)
    return owner in layers


def _convolves_one_channel(node: Node) -> bool:
    if not str(node.target).startswith("aten.conv"):
        return False
    source = node.args[0]
    return isinstance(source, Node) and source.meta["val"].shape[1] == 1


def _converted(observed: GraphModule) -> GraphModule:
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e

    try:
        graph: GraphModule = convert_pt2e(observed)
    except Exception as error:
        raise _not_quantizable(error) from error
    return graph


def _not_quantizable(error: Exception) -> CompressionError:
    return CompressionError(
        f"torchao cannot quantize the model ({type(error).__name__}: {error}); {_ADVICE}"
    )

"""static_int8: int8 weights and calibrated uint8 activations, for x86 (torchao PT2E).

float module → some layers to bfloat16 → export → observers → calibration → int8 graph
                                       restore: without calibration → saved tensors
"""

from __future__ import annotations

import dataclasses

import torch
from torch import nn
from torch.fx import GraphModule, Node

from cluster.compression.quantization.half_precision import keep_in_half
from cluster.compression.quantization.int8_graph import (
    activation_ranges,
    int8_tensors,
    layer_of,
    put_int8_tensors,
    quantized_operators,
)
from cluster.compression.quantization.scheme import QuantizedModel, is_linear
from cluster.compression.work import Job, exported
from cluster.config.steps import Quantize
from cluster.program.node import cpus
from cluster.progress import Bar
from cluster.tensors import TensorSpec

_CALIBRATION_BATCH = 32
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
    observed = _with_observers(module, inputs, in_bfloat16, step, batch)
    count = min(step.calibration_samples, len(job.train))
    bar = Bar("calibrate", count, job.out)
    with torch.no_grad():
        for start in range(0, count, batch or _CALIBRATION_BATCH):
            end = min(start + (batch or _CALIBRATION_BATCH), count)
            arrays, _ = job.train.batch(range(start, end))
            observed(*(torch.from_numpy(array) for array in arrays))
            bar.update(end)
    graph = _converted(observed)
    job.details["ranges"] = activation_ranges(graph)
    return QuantizedModel(graph, lambda: int8_tensors(graph), quantized_operators(graph))


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
    graph = _converted(_with_observers(module, inputs, in_bfloat16, step))
    put_int8_tensors(graph, tensors)
    return graph


def _with_observers(
    module: nn.Module,
    inputs: tuple[TensorSpec, ...],
    in_bfloat16: tuple[str, ...],
    step: Quantize,
    batch: int | None = None,
) -> GraphModule:
    # torchao takes half a second to import, and only this scheme needs it.
    from torchao.quantization.pt2e.quantize_pt2e import prepare_pt2e
    from torchao.quantization.pt2e.quantizer import QuantizationAnnotation
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86
    from torchao.quantization.pt2e.quantizer.quantizer import Q_ANNOTATION_KEY

    from cluster.compression.quantization.observers import observer

    keep_in_half(module, in_bfloat16, torch.bfloat16)
    # strict: without it the quantizer finds fewer patterns and fails on reused ReLU modules.
    graph = exported(module.eval(), inputs, strict=True, batch=batch).module()
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
    prepared: GraphModule = prepare_pt2e(graph, quantizer)
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

    graph: GraphModule = convert_pt2e(observed)
    return graph

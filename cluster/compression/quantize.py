"""The ``quantize`` step: a table of schemes, each refusing to quantize nothing.

static_int8   export → observers → calibration → int8 graph (torchao PT2E, x86 Inductor)
bf16          weights and activations in bfloat16, float32 at the door
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch.fx import GraphModule, Node

from cluster.compression.work import StepContext, Work, exported
from cluster.config.recipe import Quantize
from cluster.errors import CompressionError
from cluster.program.node import cpus
from cluster.progress import Bar
from cluster.tensors import TensorSpec

ACTIVATION_SCALE = "activation_scale"
ACTIVATION_ZERO_POINT = "activation_zero_point"
_CALIBRATION_BATCH = 32
_COMPUTING = ("aten.conv1d", "aten.conv2d", "aten.conv3d", "aten.linear", "aten.matmul")


def quantize(work: Work, step: Quantize, context: StepContext) -> Work:
    """Quantize the model; CompressionError if the scheme would change no operator."""
    work = SCHEMES[step.scheme](work, step, context)
    if work.quantized_operators == 0:
        raise CompressionError(
            f"scheme {step.scheme} quantized none of this model's operators; it applies to "
            "linear layers and convolutions (static_int8: of more than one channel). Choose "
            "another scheme or leave the step out"
        )
    context.out(f"quantize {step.scheme}: {work.quantized_operators} operators")
    return work


# ---------------------------------------------------------------------------- bf16


class LowPrecision(torch.nn.Module):
    """A model in bfloat16 that takes float32 inputs and answers in float32."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module.to(torch.bfloat16)

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        cast = (x.to(torch.bfloat16) if x.is_floating_point() else x for x in inputs)
        logits: torch.Tensor = self.module(*cast)
        return logits.to(torch.float32)


def _bf16(work: Work, step: Quantize, context: StepContext) -> Work:
    kinds = (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)
    count = sum(isinstance(module, kinds) for module in work.module.modules())
    module = LowPrecision(work.module).eval()
    return Work(module, work.inputs, lambda: tensors_of(module.module), count)


def tensors_of(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The module's state as plain contiguous tensors that share no memory."""
    return {
        name: tensor.detach().clone(memory_format=torch.contiguous_format)
        for name, tensor in module.state_dict().items()
    }


# ---------------------------------------------------------------------------- static int8


def _static_int8(work: Work, step: Quantize, context: StepContext) -> Work:
    torch.set_num_threads(cpus())
    observed = _with_observers(work.module, work.inputs)
    count = min(step.calibration_samples, len(context.train))
    bar = Bar("calibrate", count, context.out)
    with torch.inference_mode():
        for start in range(0, count, _CALIBRATION_BATCH):
            end = min(start + _CALIBRATION_BATCH, count)
            arrays, _ = context.train.batch(range(start, end))
            observed(*(torch.from_numpy(array) for array in arrays))
            bar.update(end)
    graph = _converted(observed)
    return Work(graph, work.inputs, lambda: int8_tensors(graph), _quantized_operators(graph))


def _with_observers(module: torch.nn.Module, inputs: tuple[TensorSpec, ...]) -> GraphModule:
    # torchao takes half a second to import, and only this scheme needs it.
    from torchao.quantization.pt2e.quantize_pt2e import prepare_pt2e
    from torchao.quantization.pt2e.quantizer import QuantizationAnnotation
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86
    from torchao.quantization.pt2e.quantizer.quantizer import Q_ANNOTATION_KEY

    # strict: without it the quantizer finds fewer patterns and fails on reused ReLU modules.
    graph = exported(module.eval(), inputs, strict=True).module()
    quantizer = x86.X86InductorQuantizer()
    quantizer.set_global(x86.get_default_x86_inductor_quantization_config())
    # Inductor takes the result of an int8 convolution of one channel for channels first where
    # the batch is dynamic, and oneDNN writes it channels last: such a convolution stays float.
    for node in graph.graph.nodes:
        if _convolves_one_channel(node):
            node.meta[Q_ANNOTATION_KEY] = QuantizationAnnotation(_annotated=True)
    prepared: GraphModule = prepare_pt2e(graph, quantizer)
    return prepared


def _convolves_one_channel(node: Node) -> bool:
    if not str(node.target).startswith("aten.conv"):
        return False
    taken = node.args[0]
    return isinstance(taken, Node) and taken.meta["val"].shape[1] == 1


def _converted(observed: GraphModule) -> GraphModule:
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e

    graph: GraphModule = convert_pt2e(observed)
    return graph


def _quantized_operators(graph: GraphModule) -> int:
    """Convolutions and linear layers whose input and weight both come from integers."""

    def from_integers(node: object) -> bool:
        return isinstance(node, Node) and "dequantize" in str(node.target)

    return sum(
        str(node.target).startswith(_COMPUTING)
        and from_integers(node.args[0])
        and from_integers(node.args[1])
        for node in graph.graph.nodes
    )


def int8_tensors(graph: GraphModule) -> dict[str, torch.Tensor]:
    """The tensors a converted graph computes with: int8 weights, scales, zero points, biases.

    The activations' scale and zero point stand in the graph as numbers; they are added as two
    vectors in the order of the graph: float64 ``activation_scale`` and int64
    ``activation_zero_point``.
    """
    tensors = {
        name: _attribute(graph, name).detach().clone(memory_format=torch.contiguous_format)
        for name in sorted({str(n.target) for n in graph.graph.nodes if n.op == "get_attr"})
    }
    activations = [node.args for node in _activation_nodes(graph)]
    tensors[ACTIVATION_SCALE] = torch.tensor([args[1] for args in activations], dtype=torch.float64)
    tensors[ACTIVATION_ZERO_POINT] = torch.tensor(
        [args[2] for args in activations], dtype=torch.int64
    )
    return tensors


def restore_int8(
    module: torch.nn.Module, inputs: tuple[TensorSpec, ...], tensors: dict[str, torch.Tensor]
) -> GraphModule:
    """The converted graph of ``module`` with the saved ``tensors``: the inverse of
    :func:`int8_tensors`, bit for bit, under the same PyTorch and torchao.

    ``module`` gives the architecture; its own weights do not matter.
    """
    graph = _converted(_with_observers(module, inputs))
    for name in {str(node.target) for node in graph.graph.nodes if node.op == "get_attr"}:
        owner, _, leaf = name.rpartition(".")
        holder = graph.get_submodule(owner)
        if name not in tensors:
            raise CompressionError(f"the saved tensors lack {name!r}; was it another model?")
        if leaf in holder._parameters:
            holder._parameters[leaf] = torch.nn.Parameter(tensors[name], requires_grad=False)
        else:
            holder._buffers[leaf] = tensors[name]
    scales, zeros = tensors[ACTIVATION_SCALE].tolist(), tensors[ACTIVATION_ZERO_POINT].tolist()
    for node, scale, zero in zip(_activation_nodes(graph), scales, zeros, strict=True):
        node.args = (node.args[0], scale, zero, *node.args[3:])
    graph.recompile()
    return graph


def _activation_nodes(graph: GraphModule) -> Iterator[Node]:
    return (node for node in graph.graph.nodes if "quantize_per_tensor" in str(node.target))


def _attribute(graph: GraphModule, name: str) -> torch.Tensor:
    owner, _, leaf = name.rpartition(".")
    tensor: torch.Tensor = getattr(graph.get_submodule(owner), leaf)
    return tensor


SCHEMES: dict[str, Callable[[Work, Quantize, StepContext], Work]] = {
    "static_int8": _static_int8,
    "bf16": _bf16,
}

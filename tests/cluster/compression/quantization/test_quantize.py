"""Quantization schemes: number of quantized operators, and answers close to the float model's."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from cluster.compression.quantization.quantize import SCHEMES, quantize
from cluster.compression.work import Work
from cluster.config.steps import Quantize
from cluster.errors import CompressionError

Bench = Callable[..., Any]


def step(scheme: str, **settings: object) -> Quantize:
    return Quantize.model_validate({"kind": "quantize", "scheme": scheme, **settings})


def using(initial: Any, module: nn.Module) -> Work:
    return Work.of(module.eval(), initial.work.inputs)


def images(initial: Any, count: int) -> torch.Tensor:
    return torch.from_numpy(initial.test.batch(range(count))[0][0])


# Linear layers of 256→64 and 64→16: every scheme for linear layers takes both.
def linear_layers() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 16))


# Bytes of the result over those of the float model; biases and scales stay as they are.
@pytest.mark.parametrize(
    ("scheme", "share", "error"),
    [
        ("static_int8", 0.27, 0.03),
        ("dynamic_int8", 0.27, 0.03),
        ("weight_only_int8", 0.27, 0.03),
        ("weight_only_int4", 0.135, 0.2),
        ("bf16", 0.5, 0.02),
        ("fp16", 0.5, 0.002),
    ],
)
def test_scheme_keeps_answers_with_fewer_bytes(
    bench: Bench, scheme: str, share: float, error: float
) -> None:
    initial = bench(model="linear")
    work, inputs = using(initial, linear_layers()), images(initial, 32)
    float_bytes = sum(tensor.nbytes for tensor in work.weights().values())
    with torch.no_grad():
        expected = work.module(inputs)
    result = quantize(work, step(scheme), initial.job)
    with torch.no_grad():
        outputs = result.module(inputs)
    assert outputs.dtype == torch.float32
    difference = float((outputs - expected).norm() / expected.norm())
    assert 0 < difference < error
    weights = result.weights()
    assert all(type(tensor) is torch.Tensor for tensor in weights.values())
    assert sum(t.nbytes for t in weights.values()) == pytest.approx(float_bytes * share, rel=0.1)
    assert result.quantized_operators == 2
    assert initial.lines[-1] == f"quantize {scheme}: 2 operators"


@pytest.mark.parametrize("scheme", [name for name in SCHEMES if name != "float8"])
def test_quantization_keeps_float_module_unchanged(bench: Bench, scheme: str) -> None:
    initial = bench(model="linear")
    work = using(initial, linear_layers())
    before = copy.deepcopy(work.module)
    result = quantize(work, step(scheme), initial.job)
    assert result.precision is not None
    assert result.precision.step.scheme == scheme
    float_module = result.precision.float_module
    assert [*float_module.state_dict()] == [*before.state_dict()]
    for name, tensor in before.state_dict().items():
        torch.testing.assert_close(float_module.state_dict()[name], tensor, rtol=0, atol=0)
    inputs = images(initial, 4)
    with torch.no_grad():
        torch.testing.assert_close(float_module(inputs), before(inputs), rtol=0, atol=0)


def test_dynamic_answer_is_independent_of_other_items(bench: Bench) -> None:
    initial = bench(model="linear")
    result = quantize(using(initial, linear_layers()), step("dynamic_int8"), initial.job)
    inputs = images(initial, 2)
    inputs[1] *= 1000
    with torch.no_grad():
        alone, together = result.module(inputs[:1]), result.module(inputs)[:1]
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


def test_torchao_tensors_are_stored_by_layer_name(bench: Bench) -> None:
    initial = bench(model="linear")
    result = quantize(using(initial, linear_layers()), step("dynamic_int8"), initial.job)
    weights = result.weights()
    assert weights["1.weight.qdata"].dtype == torch.int8
    assert weights["1.weight.qdata"].shape == (64, 256)
    assert weights["1.weight.scale"].shape[0] == 64
    assert weights["1.bias"].dtype == torch.float32


# ---------------------------------------------------------------------------- refusals

NOTHING_TO_QUANTIZE = nn.Sequential(nn.MaxPool2d(4), nn.Flatten())
# Inductor computes a wrong int8 convolution of one channel where the batch is dynamic.
ONE_CHANNEL = nn.Sequential(nn.Conv2d(1, 10, 16), nn.Flatten())


@pytest.mark.parametrize(
    ("scheme", "module", "has"),
    [
        ("static_int8", NOTHING_TO_QUANTIZE, "1 MaxPool2d, 1 Flatten"),
        ("static_int8", ONE_CHANNEL, "1 Conv2d, 1 Flatten"),
        ("bf16", NOTHING_TO_QUANTIZE, "1 MaxPool2d, 1 Flatten"),
        ("dynamic_int8", ONE_CHANNEL, "1 Conv2d, 1 Flatten"),
        ("weight_only_int4", nn.Sequential(nn.Flatten(), nn.Linear(256, 10)), "1 Linear"),
    ],
)
def test_scheme_that_changes_no_operator_is_rejected(
    bench: Bench, scheme: str, module: nn.Module, has: str
) -> None:
    initial = bench(model="linear")
    with pytest.raises(CompressionError) as refused:
        quantize(using(initial, module), step(scheme), initial.job)
    message = str(refused.value)
    assert message.startswith(f"scheme {scheme} quantized none of this model's operators")
    assert SCHEMES[scheme].applies_to in message
    assert has in message


def test_keeping_every_layer_is_rejected(bench: Bench) -> None:
    initial = bench(model="linear")
    with pytest.raises(CompressionError, match="and 2 layers are kept in bfloat16"):
        quantize(using(initial, linear_layers()), step("dynamic_int8", keep=["*"]), initial.job)


def test_float8_is_rejected_without_suitable_gpu(bench: Bench) -> None:
    cpu = bench(model="linear")
    with pytest.raises(CompressionError, match=r"8\.9 or more, and the recipe's targets are cpu"):
        quantize(using(cpu, linear_layers()), step("float8"), cpu.job)
    gpu = bench(model="linear", programs=[{"target": "cuda-sm90"}])
    if not torch.cuda.is_available():
        with pytest.raises(CompressionError, match="this machine has no CUDA device"):
            quantize(using(gpu, linear_layers()), step("float8"), gpu.job)


@pytest.mark.parametrize("scheme", ["static_int8", "weight_only_int4"])
def test_scheme_of_cpu_kernels_is_rejected_for_gpu(bench: Bench, scheme: str) -> None:
    initial = bench(model="linear", programs=[{"target": "cuda-sm90"}])
    with pytest.raises(CompressionError, match="for CPUs, and the recipe's targets are cuda-sm90"):
        quantize(using(initial, linear_layers()), step(scheme), initial.job)


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(256, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        flat: torch.Tensor = self.head(images.flatten(1))
        return flat if flat.sum() > 0 else -flat


class FixedBatch(Branching):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        flat: torch.Tensor = self.head(images.flatten(1))
        return flat * (2 if images.shape[0] == 8 else 1)


@pytest.mark.parametrize("module", [Branching(), FixedBatch()])
def test_model_with_graph_break_is_rejected(bench: Bench, module: nn.Module) -> None:
    initial = bench()
    with pytest.raises(CompressionError, match="cannot be exported as one graph"):
        quantize(using(initial, module), step("static_int8"), initial.job)

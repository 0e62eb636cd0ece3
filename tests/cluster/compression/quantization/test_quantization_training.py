"""Fake-quantized layers: they round like real ones, learn, and are removed after training."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from cluster.compression.quantization.fake_quantize import (
    FakeQuantized,
    Rounding,
    fake_quantized,
    rounded_weight,
)
from cluster.compression.quantization.quantize import quantize
from cluster.config.steps import Quantize

Bench = Callable[..., Any]
STATIC = Rounding(weight="int8", input="tensor")
DYNAMIC = Rounding(weight="int8", input="token")


@pytest.mark.parametrize(
    ("weight", "levels", "error"), [("int8", 255, 0.5 / 127), ("int4", 16, 0.5 / 15 * 2)]
)
def test_rounded_weights_equal_dequantized_integers(weight: Any, levels: int, error: float) -> None:
    torch.manual_seed(0)
    full = torch.randn(6, 128)
    rounded = rounded_weight(full, Rounding(weight=weight, input=None))
    assert max(len(row.unique()) for row in rounded) <= levels
    assert float(((rounded - full).abs() / full.abs().amax(1, keepdim=True)).max()) <= error + 1e-6
    assert not torch.equal(rounded, full)


def test_float8_rounds_to_three_mantissa_bits() -> None:
    full = torch.rand(4, 64) + 0.5
    rounded = rounded_weight(full, Rounding(weight="float8", input=None))
    assert 0 < float(((rounded - full).abs() / full).max()) <= 2**-4 + 1e-6


@pytest.mark.parametrize("rounding", [STATIC, DYNAMIC])
@pytest.mark.parametrize(
    ("layer", "shape"),
    [(nn.Linear(8, 4), (3, 5, 8)), (nn.Conv2d(4, 6, 3, stride=2, groups=2), (2, 4, 9, 9))],
)
def test_rounded_layer_approximates_layer_and_has_gradients(
    rounding: Rounding, layer: nn.Module, shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape, requires_grad=True)
    expected = layer(x)
    rounded = FakeQuantized(copy.deepcopy(layer), rounding).train()
    outputs = rounded(x)
    difference = float((outputs - expected).norm() / expected.norm())
    assert 0 < difference < 0.03
    outputs.square().mean().backward()
    assert x.grad is not None
    assert float(rounded.layer.weight.grad.norm()) > 0


def test_input_range_is_moving_average() -> None:
    layer = FakeQuantized(nn.Linear(2, 2), STATIC).train()
    layer(torch.tensor([[1.0, -1.0]]))
    layer(torch.tensor([[3.0, -1.0]]))
    assert float(layer.high) == pytest.approx(1.02)
    layer.eval()(torch.tensor([[100.0, 0.0]]))
    assert (float(layer.low), float(layer.high)) == pytest.approx((-1, 1.02))


def test_original_layers_are_restored_after_training() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    layers = [*module]

    def break_within() -> None:
        with fake_quantized(module, ["0", "2"], DYNAMIC):
            assert isinstance(module[0], FakeQuantized)
            sent = pickle.loads(pickle.dumps(module))  # as to another process that trains
            assert isinstance(sent[2], FakeQuantized)
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        break_within()
    assert all(layer is original for layer, original in zip(module, layers, strict=True))


@pytest.mark.parametrize(
    ("scheme", "precision"),
    [("static_int8", "float32"), ("static_int8", "bf16"), ("dynamic_int8", "float32")],
)
def test_training_improves_quantized_model(bench: Bench, scheme: str, precision: str) -> None:
    initial = bench()
    labels = torch.from_numpy(initial.test.batch(range(200))[1])
    images = torch.from_numpy(initial.test.batch(range(200))[0][0])

    def accuracy(module: nn.Module) -> float:
        with torch.inference_mode():
            return float((module(images).argmax(1) == labels).double().mean())

    training = {"epochs": 1, "learning_rate": 0.05, "precision": precision}
    step = Quantize.model_validate({"kind": "quantize", "scheme": scheme, "training": training})
    before = copy.deepcopy(initial.work.module.state_dict())
    result = quantize(initial.work, step, initial.job)
    assert accuracy(initial.work.module) < 0.4  # not trained: the recipe's own module is left alone
    assert accuracy(result.module) > 0.7
    assert result.precision is not None
    trained = result.precision.float_module
    assert accuracy(trained) == pytest.approx(accuracy(result.module), abs=0.02)
    assert trained.state_dict().keys() == before.keys()
    assert initial.job.details["losses"]
    for name, tensor in before.items():
        torch.testing.assert_close(initial.work.module.state_dict()[name], tensor, rtol=0, atol=0)

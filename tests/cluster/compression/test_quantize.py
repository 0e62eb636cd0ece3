"""Each scheme says how many operators it quantized, and its tensors give the same model back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from cluster.compression.quantize import int8_tensors, quantize, restore_int8
from cluster.compression.work import Work
from cluster.config.recipe import Quantize
from cluster.errors import CompressionError

Bench = Callable[..., Any]


def step(scheme: str) -> Quantize:
    return Quantize.model_validate({"kind": "quantize", "scheme": scheme})


def using(made: Any, module: nn.Module) -> Work:
    return Work(module.eval(), made.work.inputs, module.state_dict)


def test_int8_weights_are_integers_and_bit_for_bit_the_same_when_restored(bench: Bench) -> None:
    made, other = bench(), bench()
    with torch.no_grad():  # the architecture is all that restoring takes from a module
        for parameter in other.work.module.parameters():
            parameter.zero_()
    float_bytes = sum(t.nbytes for t in made.work.weights().values())
    quantized = quantize(made.work, step("static_int8"), made.context)
    tensors = quantized.weights()
    assert tensors.keys() == int8_tensors(quantized.module).keys()
    int8 = [tensor for tensor in tensors.values() if tensor.dtype == torch.int8]
    assert len(int8) == quantized.quantized_operators == 3
    assert 0.24 < sum(t.nbytes for t in tensors.values()) / float_bytes < 0.28
    assert made.lines[-1] == "quantize static_int8: 3 operators"

    restored = restore_int8(other.work.module, made.work.inputs, tensors)
    images = torch.from_numpy(made.test.batch(range(64))[0][0])
    with torch.inference_mode():
        torch.testing.assert_close(restored(images), quantized.module(images), rtol=0, atol=0)


def test_restoring_another_models_tensors_is_refused(bench: Bench) -> None:
    made = bench()
    with pytest.raises(CompressionError, match="the saved tensors lack"):
        restore_int8(made.work.module, made.work.inputs, {"0.bias": torch.zeros(8)})


def test_bf16_answers_in_float32_with_half_the_bytes(bench: Bench) -> None:
    made = bench()
    images = torch.from_numpy(made.test.batch(range(8))[0][0])
    with torch.inference_mode():
        expected = made.work.module(images)
    float_bytes = sum(t.nbytes for t in made.work.weights().values())
    quantized = quantize(made.work, step("bf16"), made.context)
    assert quantized.quantized_operators == 4
    weights = quantized.weights()
    assert weights["6.weight"].dtype == torch.bfloat16
    assert sum(t.nbytes for t in weights.values()) == pytest.approx(float_bytes / 2, rel=0.01)
    with torch.inference_mode():
        found = quantized.module(images)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.02)
    assert not torch.equal(found, expected)


NOTHING_TO_QUANTIZE = nn.Sequential(nn.MaxPool2d(4), nn.Flatten())
# Inductor computes a wrong int8 convolution of one channel where the batch is dynamic.
ONE_CHANNEL = nn.Sequential(nn.Conv2d(1, 10, 16), nn.Flatten())


@pytest.mark.parametrize(
    ("scheme", "module"),
    [
        ("static_int8", NOTHING_TO_QUANTIZE),
        ("bf16", NOTHING_TO_QUANTIZE),
        ("static_int8", ONE_CHANNEL),
    ],
)
def test_a_scheme_that_changes_no_operator_is_refused(
    bench: Bench, scheme: str, module: nn.Module
) -> None:
    made = bench()
    with pytest.raises(CompressionError, match=f"scheme {scheme} quantized none"):
        quantize(using(made, module), step(scheme), made.context)


class Branching(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        flat = images.flatten(1)[:, :10]
        return flat if flat.sum() > 0 else -flat


class FixedBatch(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1)[:, :10] * (2 if images.shape[0] == 8 else 1)


@pytest.mark.parametrize("module", [Branching(), FixedBatch()])
def test_a_model_that_is_not_one_graph_is_refused(bench: Bench, module: nn.Module) -> None:
    made = bench()
    with pytest.raises(CompressionError, match="cannot be exported as one graph"):
        quantize(using(made, module), step("static_int8"), made.context)


def test_calibration_takes_as_many_samples_as_told(bench: Bench) -> None:
    made = bench(model="linear")
    seen: list[int] = []
    taken = made.context.train.batch
    made.context.train.batch = lambda rows: seen.extend(rows) or taken(rows)
    settings = {"kind": "quantize", "scheme": "static_int8", "calibration_samples": 50}
    quantize(made.work, Quantize.model_validate(settings), made.context)
    assert seen == list(range(50))

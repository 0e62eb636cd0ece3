"""Scheme static_int8: calibration determines ranges, and tensors restore the same graph."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from cluster.compression.quantization.int8_graph import int8_tensors
from cluster.compression.quantization.observers import PercentileObserver
from cluster.compression.quantization.quantize import quantize
from cluster.compression.quantization.static_int8 import restore_int8
from cluster.compression.work import Work
from cluster.config.steps import Quantize
from cluster.errors import CompressionError

Bench = Callable[..., Any]


def step(**settings: object) -> Quantize:
    return Quantize.model_validate({"kind": "quantize", "scheme": "static_int8", **settings})


def images(initial: Any, count: int) -> torch.Tensor:
    return torch.from_numpy(initial.test.batch(range(count))[0][0])


def test_int8_weights_are_integers_and_restore_bit_exact(bench: Bench) -> None:
    initial, other = bench(), bench()
    with torch.no_grad():  # the architecture is all that restoring takes from a module
        for parameter in other.work.module.parameters():
            parameter.zero_()
    float_bytes = sum(t.nbytes for t in initial.work.weights().values())
    quantized = quantize(initial.work, step(), initial.job)
    tensors = quantized.weights()
    assert tensors.keys() == int8_tensors(quantized.module).keys()
    int8 = {name for name, tensor in tensors.items() if tensor.dtype == torch.int8}
    assert int8 == {"3.weight", "6.weight", "8.weight"}
    assert quantized.quantized_operators == 3
    assert tensors["3.weight_scale"].shape == (16,)
    assert 0.24 < sum(t.nbytes for t in tensors.values()) / float_bytes < 0.28

    restored = restore_int8(other.work.module, initial.work.inputs, tensors)
    inputs = images(initial, 64)
    with torch.inference_mode():
        torch.testing.assert_close(restored(inputs), quantized.module(inputs), rtol=0, atol=0)


def test_graph_with_kept_layers_restores_bit_exact(bench: Bench) -> None:
    initial = bench()
    fresh = copy.deepcopy(initial.work.module)
    quantized = quantize(initial.work, step(keep=["3"], calibration="minmax"), initial.job)
    assert quantized.quantized_operators == 2
    assert quantized.precision is not None
    assert quantized.precision.bfloat16_layers == ("3",)
    assert initial.job.details["kept"] == ["3"]
    tensors = quantized.weights()
    assert tensors["3.weight"].dtype == torch.bfloat16
    assert tensors["6.weight"].dtype == torch.int8
    restored = restore_int8(fresh, initial.work.inputs, tensors, ("3",))
    inputs = images(initial, 16)
    with torch.inference_mode():
        outputs = quantized.module(inputs)
        torch.testing.assert_close(restored(inputs), outputs, rtol=0, atol=0)
        assert outputs.dtype == torch.float32


def test_restoring_tensors_of_another_model_is_rejected(bench: Bench) -> None:
    initial = bench()
    with pytest.raises(CompressionError, match="the saved tensors lack"):
        restore_int8(initial.work.module, initial.work.inputs, {"0.bias": torch.zeros(8)})


def test_restoring_with_other_kept_layers_is_rejected(bench: Bench) -> None:
    initial = bench(model="linear")
    module = nn.Sequential(nn.Flatten(), nn.Linear(256, 32), nn.ReLU(), nn.Linear(32, 10)).eval()
    work = Work.of(module, initial.work.inputs)
    tensors = quantize(work, step(keep=["3"]), initial.job).weights()
    with pytest.raises(CompressionError, match="the saved tensors"):
        restore_int8(module, initial.work.inputs, tensors)


def test_calibration_uses_configured_number_of_samples(bench: Bench) -> None:
    initial = bench(model="linear")
    assert len(initial.job.probes) > 0  # read before calibration
    seen: list[int] = []
    read_batch = initial.job.train.batch
    initial.job.train.batch = lambda rows: seen.extend(rows) or read_batch(rows)
    quantize(initial.work, step(calibration_samples=50), initial.job)
    assert seen == list(range(50))


# ---------------------------------------------------------------------------- ranges


def test_ranges_of_samples_have_readable_names(bench: Bench) -> None:
    initial = bench()
    quantize(initial.work, step(calibration="minmax", calibration_samples=64), initial.job)
    ranges = initial.job.details["ranges"]
    assert [*ranges] == ["2 relu", "4 relu", "5 flatten", "7 relu"]
    arrays, _ = initial.job.train.batch(range(64))
    with torch.no_grad():
        highest = float(initial.work.module[:3](torch.from_numpy(arrays[0])).max())
    assert ranges["2 relu"] == pytest.approx([0, highest], rel=1e-4)


def test_percentile_range_excludes_largest_values(bench: Bench) -> None:
    highest = {}
    for percentile in (100, 99.9, 80):
        initial = bench()
        settings = {"calibration": "percentile", "percentile": percentile}
        quantize(initial.work, step(**settings), initial.job)
        highest[percentile] = initial.job.details["ranges"]["2 relu"][1]
    least = bench()
    quantize(least.work, step(calibration="minmax"), least.job)
    assert highest[100] == pytest.approx(least.job.details["ranges"]["2 relu"][1], rel=1e-4)
    assert highest[100] > highest[99.9] > highest[80] > 0


@pytest.mark.parametrize("percentile", [60, 95, 99.9])
def test_percentile_range_contains_its_share_of_values(percentile: float) -> None:
    torch.manual_seed(0)
    observer = PercentileObserver(percentile=percentile, dtype=torch.uint8)
    batches = [torch.randn(20_000) * size for size in (1, 3, 0.5)]  # the range grows on the way
    for batch in batches:
        observer(batch)
    low, high = observer.range()
    values = torch.cat(batches)
    inside = ((values >= low) & (values <= high)).double().mean()
    assert float(inside) == pytest.approx(percentile / 100, abs=0.002)
    assert float((values < low).double().mean()) == pytest.approx(
        (1 - percentile / 100) / 2, abs=0.002
    )


def test_percentile_of_single_value_is_that_value() -> None:
    observer = PercentileObserver(percentile=99, dtype=torch.uint8)
    observer(torch.full((10,), 2.5))
    assert [float(end) for end in observer.range()] == [2.5, 2.5]

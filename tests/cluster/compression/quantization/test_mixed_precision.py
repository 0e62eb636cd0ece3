"""Layers that keep their precision: the named ones, or the most sensitive ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from cluster.compression.quantization import mixed_precision
from cluster.compression.quantization.quantize import quantize
from cluster.compression.training.train import train
from cluster.compression.work import Work
from cluster.config.steps import Quantize, Train
from cluster.errors import CompressionError

Bench = Callable[..., Any]


def step(scheme: str = "dynamic_int8", **settings: object) -> Quantize:
    return Quantize.model_validate({"kind": "quantize", "scheme": scheme, **settings})


class Blocks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(256, 32), nn.ReLU(), nn.Linear(32, 32))
        self.second = nn.Sequential(nn.Linear(32, 32), nn.ReLU())
        self.head = nn.Linear(32, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.second(self.first(images.flatten(1))))
        return logits


def blocks(initial: Any) -> Work:
    torch.manual_seed(0)
    return Work.of(Blocks().eval(), initial.work.inputs)


@pytest.mark.parametrize(
    ("scheme", "pattern", "expected_layers"),
    [
        ("dynamic_int8", "head", ("head",)),
        ("dynamic_int8", "first", ("first.0", "first.2")),
        ("dynamic_int8", "*.0", ("first.0", "second.0")),
        ("static_int8", "second", ("second.0",)),
        ("weight_only_int8", "first.?", ("first.0", "first.2")),
    ],
)
def test_named_layers_stay_in_bfloat16(
    bench: Bench, scheme: str, pattern: str, expected_layers: tuple[str, ...]
) -> None:
    initial = bench(model="linear")
    result = quantize(blocks(initial), step(scheme, keep=[pattern]), initial.job)
    assert result.precision is not None
    assert result.precision.bfloat16_layers == expected_layers
    assert initial.job.details["kept"] == [*expected_layers]
    weights = result.weights()
    for name in expected_layers:
        assert weights[f"{name}.weight"].dtype == torch.bfloat16
        assert result.precision.float_module.get_parameter(f"{name}.weight").dtype == torch.float32
    assert result.quantized_operators == 4 - len(expected_layers)


def test_pattern_without_match_is_rejected_with_similar_names(bench: Bench) -> None:
    initial = bench(model="linear")
    with pytest.raises(CompressionError, match=r"quantize.keep: no layer is called 'haed'.*head"):
        quantize(blocks(initial), step(keep=["haed"]), initial.job)


def test_pattern_of_unquantizable_layers_is_rejected(bench: Bench) -> None:
    initial = bench(model="linear")
    with pytest.raises(CompressionError, match=r"'first.1' matches first.1, none of which"):
        quantize(blocks(initial), step(keep=["first.1"]), initial.job)


class OneFineLayer(nn.Module):
    """Classifier after a layer that int8 damages: one weight is far larger than the others."""

    def __init__(self) -> None:
        super().__init__()
        self.coarse = nn.Linear(256, 64)
        self.fine = nn.Linear(64, 65, bias=False)
        self.head = nn.Linear(64, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.coarse(images.flatten(1)))
        logits: torch.Tensor = self.head(self.fine(hidden)[:, :64])
        return logits


def test_most_sensitive_layer_keeps_precision(bench: Bench) -> None:
    initial = bench(model="linear")
    module = OneFineLayer()
    training = Train(kind="train", epochs=2)
    work = train(Work.of(module, initial.work.inputs), training, initial.job)
    with torch.no_grad():
        # A channel that is never on gets huge weights: the scale of each row grows, not the sum.
        module.coarse.bias[0] = -1e4
        module.fine.weight[:, 0] = 1e3
    result = quantize(work, step(keep_most_sensitive=1), initial.job)
    drops = initial.job.details["sensitivity"]
    assert drops.keys() == {"coarse", "fine", "head"}
    assert drops["fine"] > 0.3 > max(drops["coarse"], drops["head"])
    assert result.precision is not None
    assert result.precision.bfloat16_layers == ("fine",)
    assert result.quantized_operators == 2


def test_keeping_more_layers_than_measured_is_rejected(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    initial = bench(model="linear")
    monkeypatch.setattr(mixed_precision, "MOST_LAYERS", 2)
    with pytest.raises(CompressionError, match="keep_most_sensitive=3, but only 2 of the 4 layers"):
        quantize(blocks(initial), step(keep_most_sensitive=3), initial.job)
    result = quantize(blocks(initial), step(keep_most_sensitive=2), initial.job)
    assert len(result.precision.bfloat16_layers) == 2


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.hidden = nn.Linear(16, 16)
        self.head = nn.Linear(16, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        rows = images.flatten(1, 2)  # 16 rows of 16 pixels
        seen, _ = self.attention(rows, rows, rows, need_weights=False)
        logits: torch.Tensor = self.head(self.hidden(seen.mean(dim=1)).relu())
        return logits


def test_projection_inside_attention_is_not_a_candidate(bench: Bench) -> None:
    initial = bench(model="linear")
    work = Work.of(Attention().eval(), initial.work.inputs)
    result = quantize(
        work, step("static_int8", keep_most_sensitive=1, training={"updates": 2}), initial.job
    )
    assert initial.job.details["sensitivity"].keys() == {"hidden", "head"}
    assert result.precision is not None
    assert result.precision.bfloat16_layers in (("hidden",), ("head",))
    assert result.quantized_operators == 1


def test_unknown_layer_name_is_rejected_before_training(bench: Bench) -> None:
    initial = bench(model="linear")
    with pytest.raises(CompressionError, match="no layer is called 'haed'; near it: head"):
        quantize(blocks(initial), step(keep=["haed"], training={"updates": 2}), initial.job)
    assert not any(line.startswith("train") for line in initial.lines)

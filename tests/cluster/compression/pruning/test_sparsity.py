"""Magnitude and 2:4 pruning: the zeroed weights, and that they stay zero."""

from __future__ import annotations

import copy
from pathlib import Path

import bench_models as models
import pytest
import torch
from torch import nn

from cluster.compression.pruning.sparsity import two_of_four
from cluster.errors import CompressionError


def _zeros(layer: nn.Module) -> float:
    return float((layer.weight == 0).float().mean())


def test_global_magnitude_zeroes_smallest_weights_of_model(tmp_path: Path) -> None:
    original = models.seeded(models.padded)
    with torch.no_grad():
        original.conv1.weight *= 0.01
    result = models.pruned(original, tmp_path, method="magnitude", ratio=0.3)
    shares = result.details["sparsity"]
    assert set(shares) == {"stem", "conv1", "conv2"}  # the head stays whole
    assert shares["conv1"] > 0.9 > 0.3 > shares["conv2"]
    weights = [getattr(result.work.module, name).weight for name in shares]
    zeros = sum(int((weight == 0).sum()) for weight in weights)
    assert zeros / sum(weight.numel() for weight in weights) == pytest.approx(0.3, abs=1e-3)
    remaining = result.work.module.conv2.weight
    assert torch.equal(remaining[remaining != 0], original.conv2.weight[remaining != 0])


def test_local_magnitude_zeroes_ratio_of_each_unspared_layer(tmp_path: Path) -> None:
    result = models.pruned(
        models.seeded(models.padded),
        tmp_path,
        method="magnitude",
        ratio=0.5,
        scope="local",
        spare=["conv*2"],
    )
    module = result.work.module
    assert [_zeros(layer) for layer in (module.stem, module.conv1)] == [0.5, 0.5]
    assert _zeros(module.conv2) == _zeros(module.fc) == 0
    copy.deepcopy(module)  # no mask is left behind


def test_recovery_keeps_zeros_and_trains_other_weights(tmp_path: Path) -> None:
    result = models.pruned(
        models.seeded(models.padded),
        tmp_path,
        method="magnitude",
        ratio=0.5,
        iterations=2,
        recovery={"epochs": 1, "learning_rate": 0.1},
    )
    weights = [getattr(result.work.module, name).weight for name in result.details["sparsity"]]
    zeros = sum(int((weight == 0).sum()) for weight in weights)
    assert zeros / sum(weight.numel() for weight in weights) == pytest.approx(0.5, abs=1e-3)
    assert not torch.equal(result.work.module.fc.weight, result.before.fc.weight)


def test_semi_structured_keeps_two_largest_of_four_weights(tmp_path: Path) -> None:
    original = models.seeded(models.padded)
    result = models.pruned(original, tmp_path, method="semi_structured")
    assert result.details["sparsity"] == {"conv1": 0.5, "conv2": 0.5}  # the stem has 3 inputs
    fours = result.work.module.conv2.weight.movedim(1, -1).reshape(-1, 4)
    assert bool(((fours != 0).sum(dim=1) == 2).all())
    before = original.conv2.weight.movedim(1, -1).reshape(-1, 4).abs()
    assert torch.allclose(fours.abs().sum(1), before.topk(2).values.sum(1))
    assert any("CUDA" in line for line in result.lines)


def test_semi_structured_keeps_two_of_equal_weights() -> None:
    assert two_of_four(torch.ones(3, 8, 2, 2)).sum(dim=1).unique().tolist() == [4.0]
    assert two_of_four(torch.tensor([[1.0, -3.0, 2.0, 0.5]])).tolist() == [[0, 1, 1, 0]]


def test_attention_projections_are_pruned_as_linear_layers(tmp_path: Path) -> None:
    result = models.pruned(
        models.vision_transformer(), tmp_path, method="magnitude", ratio=0.5, scope="local"
    )
    attention = result.work.module.encoder.layers[0].self_attention
    assert float((attention.in_proj_weight == 0).float().mean()) == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize(
    ("model", "fields", "message"),
    [
        (
            nn.Sequential(nn.Conv2d(3, 7, 3), nn.Flatten(), nn.Linear(7 * 14 * 14, 10)),
            {"method": "semi_structured"},
            r"divides by 4, but they have: 0 3; use method magnitude",
        ),
        (
            nn.Sequential(nn.Flatten(), nn.Linear(768, 10)),
            {"method": "magnitude", "ratio": 0.5},
            r"1 is the head, the only one",
        ),
        (
            nn.Sequential(nn.Flatten(), nn.Linear(768, 8), nn.Linear(8, 10)),
            {"method": "magnitude", "ratio": 0.5, "spare": ["1"]},
            r"2 is the head, and spare excludes the others",
        ),
        (
            nn.Sequential(nn.Flatten(), nn.Linear(768, 8), nn.Linear(8, 10)),
            {"method": "magnitude", "ratio": 0.5, "spare": ["fc"]},
            r"spare: no layer is called 'fc'",
        ),
    ],
)
def test_sparsity_rejects_model_without_suitable_weights(
    model: nn.Module, fields: dict, message: str, tmp_path: Path
) -> None:
    with pytest.raises(CompressionError, match=message):
        models.pruned(model, tmp_path, **fields)

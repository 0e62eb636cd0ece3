"""Structured pruning: tensors shrink and rebuild bit-exact; unsupported models are rejected."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import bench_models as models
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from cluster.compression.evaluation.costs import macs_of
from cluster.config.steps import Recovery
from cluster.errors import CompressionError
from cluster.models.rebuild import fit
from cluster.models.shortcuts import SelectionShortcut

MODELS: dict[str, tuple[Callable[[], nn.Module], tuple, str]] = {
    "option-A": (models.padded, models.IMAGES, "accuracy"),
    "concatenated": (models.Concatenated, models.IMAGES, "accuracy"),
    "vit": (models.vision_transformer, models.IMAGES, "accuracy"),
    "bert": (models.Embedding, models.TOKENS, "cosine"),
}


@pytest.mark.parametrize("name", MODELS)
def test_pruned_model_is_smaller_and_rebuilds_bit_exact(name: str, tmp_path: Path) -> None:
    make, inputs, metric = MODELS[name]
    torch.manual_seed(0)
    original = models.seeded(make)
    before = copy.deepcopy(original.state_dict())
    result = models.pruned(original, tmp_path, inputs, metric, ratio=0.5, scope="local")

    assert macs_of(result.work.module, inputs) < 0.8 * macs_of(original, inputs)
    save_file(result.work.weights(), tmp_path / "weights.safetensors")
    rebuilt = models.seeded(make)
    fit(rebuilt, load_file(tmp_path / "weights.safetensors"))
    example = models.example(inputs)
    with torch.no_grad():
        assert torch.equal(rebuilt(*example), result.work.module(*example))
    # The input model is unchanged.
    assert all(torch.equal(before[key], value) for key, value in original.state_dict().items())


@pytest.mark.slow
def test_pruned_mobilenet_with_squeeze_rebuilds_bit_exact(tmp_path: Path) -> None:
    from torchvision.models import mobilenet_v3_small

    result = models.pruned(mobilenet_v3_small(num_classes=10), tmp_path, ratio=0.4)
    rebuilt = mobilenet_v3_small(num_classes=10).eval()
    fit(rebuilt, result.work.weights())
    with torch.no_grad():
        (example,) = models.example()
        assert torch.equal(rebuilt(example), result.work.module(example))
    assert result.work.module.classifier[3].out_features == 10


def test_padded_shortcut_becomes_equivalent_convolution(tmp_path: Path) -> None:
    from cluster.compression.pruning.shortcuts import replace_padded_shortcuts

    original = models.seeded(models.padded)
    replaced = copy.deepcopy(original)
    example = models.example()
    assert replace_padded_shortcuts(replaced, tuple(example)) == ("shortcut",)
    assert isinstance(replaced.shortcut, SelectionShortcut)
    with torch.no_grad():
        assert torch.equal(replaced(*example), original(*example))


def test_module_similar_to_padded_shortcut_is_unchanged(tmp_path: Path) -> None:
    from cluster.compression.pruning.shortcuts import replace_padded_shortcuts

    class Doubled(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([x[:, :, ::2, ::2], -x[:, :, ::2, ::2]], 1)

    model = models.Residual(Doubled()).eval()
    assert replace_padded_shortcuts(model, tuple(models.example())) == ()


def test_selection_matrix_and_frozen_weights_are_not_trained(
    tmp_path: Path,
) -> None:
    original = models.seeded(models.padded)
    original.conv2.weight.requires_grad_(False)
    module = models.pruned(original, tmp_path, ratio=0.5).work.module
    frozen = {name for name, parameter in module.named_parameters() if not parameter.requires_grad}
    assert frozen == {"conv2.weight", "shortcut.weight"}
    assert all(parameter.grad is None for parameter in module.parameters())


@pytest.mark.parametrize("make", [models.inline, models.Reversed])
def test_forward_that_moves_channels_is_rejected(
    make: Callable[[], nn.Module], tmp_path: Path
) -> None:
    original = models.seeded(make)
    before = copy.deepcopy(original.state_dict())
    with pytest.raises(CompressionError, match=r"(fc|second).*cannot be traced.*`spare`"):
        models.pruned(original, tmp_path, ratio=0.5)
    assert all(torch.equal(before[key], value) for key, value in original.state_dict().items())


def test_channel_shuffle_is_rejected_with_layer_name(tmp_path: Path) -> None:
    from torchvision.models import shufflenet_v2_x0_5

    with pytest.raises(CompressionError, match=r"at stage4\.1\.branch2\.6 \(ZeroDivisionError"):
        models.pruned(shufflenet_v2_x0_5(num_classes=10), tmp_path, ratio=0.4)


def test_layer_that_moves_channels_can_be_spared(tmp_path: Path) -> None:
    result = models.pruned(models.seeded(models.Reversed), tmp_path, ratio=0.5, spare=["first"])
    assert result.details["pruned"] == {"second": [32, 16]}


def test_pruning_removes_whole_heads_and_keeps_embedding_size(tmp_path: Path) -> None:
    result = models.pruned(
        models.Embedding(), tmp_path, models.TOKENS, "cosine", ratio=0.5, scope="local"
    )
    attention = result.work.module.model.encoder.layer[0].attention.self
    assert (attention.num_attention_heads, attention.attention_head_size) == (2, 8)
    assert attention.query.out_features == attention.all_head_size == 16
    with torch.no_grad():
        assert result.work.module(*models.example(models.TOKENS)).shape == (4, 32)


@pytest.mark.parametrize("iterations", [1, 3])
@pytest.mark.parametrize("importance", ["magnitude", "taylor", "bn"])
def test_local_ratio_is_met_for_any_importance_and_iterations(
    importance: str, iterations: int, tmp_path: Path
) -> None:
    result = models.pruned(
        models.seeded(models.padded),
        tmp_path,
        ratio=0.5,
        scope="local",
        importance=importance,
        iterations=iterations,
    )
    assert result.details["pruned"] == {
        "stem": [16, 8],
        "conv1": [32, 16],
        "conv2": [32, 16],
        "shortcut": [32, 16],
    }


def test_speedup_is_met_in_multiply_accumulates(tmp_path: Path) -> None:
    original = models.seeded(models.padded)
    result = models.pruned(original, tmp_path, speedup=2.0, iterations=2, round_to=2)
    full, remaining_macs = (
        macs_of(module, models.IMAGES) for module in (original, result.work.module)
    )
    assert 2.0 <= full / remaining_macs < 2.6


def test_least_important_channels_are_pruned(tmp_path: Path) -> None:
    original = models.Reversed().eval()
    with torch.no_grad():
        original.second.weight[::2] *= 10
        original.fc.weight[:, ::2] *= 10
        expected = original.second.weight[::2].clone()
    result = models.pruned(original, tmp_path, ratio=0.5, spare=["first"])
    assert torch.equal(result.work.module.second.weight, expected)


def test_every_layer_keeps_channels_with_tiny_weights(tmp_path: Path) -> None:
    original = models.seeded(models.Concatenated)
    with torch.no_grad():
        original.left.weight[0] *= 100  # all others are below the threshold beside it
    result = models.pruned(original, tmp_path, ratio=0.5, round_to=4)
    assert result.work.module.left.out_channels == 4
    assert torch.equal(result.work.module.left.weight[0], original.left.weight[0])


def test_each_iteration_recalibrates_before_recovery(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cluster.compression.pruning import structured

    widths: list[int] = []
    monkeypatch.setattr(
        structured, "recover", lambda module, *_: widths.append(module.conv1.out_channels)
    )
    result = models.pruned(
        models.seeded(models.padded),
        tmp_path,
        ratio=0.5,
        scope="local",
        iterations=2,
        recovery=Recovery(epochs=1).model_dump(),
    )
    assert widths == [24, 16]
    assert result.work.module.bn1.running_mean.shape == (16,)


def test_recovery_trains_remaining_channels(tmp_path: Path) -> None:
    fields = {"ratio": 0.5, "scope": "local"}
    alone = models.pruned(models.seeded(models.padded), tmp_path / "a", **fields)
    trained = models.pruned(
        models.seeded(models.padded), tmp_path / "b", recovery={"epochs": 1}, **fields
    )
    assert not torch.equal(alone.work.module.fc.weight, trained.work.module.fc.weight)
    assert torch.equal(alone.work.module.shortcut.weight, trained.work.module.shortcut.weight)
    assert not trained.work.module.training


def test_sensitivity_is_drop_of_pruning_one_layer(tmp_path: Path) -> None:
    result = models.pruned(models.seeded(models.padded), tmp_path, ratio=0.5)
    assert set(result.details["sensitivity"]) == {"stem", "conv1", "conv2"}
    assert all(-1 <= drop <= 1 for drop in result.details["sensitivity"].values())


@pytest.mark.parametrize(
    ("make", "fields", "message"),
    [
        (models.padded, {"spare": ["conv9"]}, r"no layer is called 'conv9'; near it: .*conv"),
        (models.padded, {"spare": ["*"]}, r"spare excludes all 5 layers; spare fewer"),
        (models.padded, {"ratio": 0.97, "scope": "local"}, r"less than one of the 16 channels of"),
        (models.padded, {"ratio": 0.99}, r"less than one channel in each of 3 layers"),
        (models.padded, {"round_to": 64}, r"nothing was removed: with round_to=64"),
        (models.padded, {"ratio": None, "speedup": 500.0}, r"speedup=500 cannot be reached"),
        (models.Reversed, {"importance": "bn"}, r"no layer has a batch normalization"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(768, 10)), {}, r"of the head 1"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Softmax(1)), {}, r"no convolution or linear"),
    ],
)
def test_unprunable_model_is_rejected_with_reason(
    make: Callable[[], nn.Module], fields: dict, message: str, tmp_path: Path
) -> None:
    with pytest.raises(CompressionError, match=message):
        models.pruned(models.seeded(make), tmp_path, **({"ratio": 0.5} | fields))


def test_taylor_importance_requires_classes(tmp_path: Path) -> None:
    with pytest.raises(CompressionError, match=r"returns embeddings.*use importance magnitude"):
        models.pruned(
            models.Embedding(), tmp_path, models.TOKENS, "cosine", ratio=0.5, importance="taylor"
        )

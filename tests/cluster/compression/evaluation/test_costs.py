"""Parameters, bytes and multiply-accumulates, in total and by layer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cluster.compression.evaluation.costs import UNNAMED, layer_sizes, macs_of, size_of
from cluster.compression.record import LayerSize
from cluster.errors import ForwardError
from cluster.tensors import TensorSpec

IMAGE = (TensorSpec(name="image", datatype="FP32", shape=(-1, 3, 8, 8)),)


def convolutional() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 5))


def test_size_counts_parameters_bytes_and_macs() -> None:
    module = convolutional()
    with torch.no_grad():
        module[3].weight[:, :200] = 0
    size = size_of(module, IMAGE, module.state_dict())
    convolution, linear = 4 * 3 * 9 + 4, 256 * 5 + 5
    assert size.parameters == convolution + linear
    assert size.nonzero == convolution + linear - 200 * 5
    assert size.weight_bytes == 4 * size.parameters
    assert size.macs == 8 * 8 * 4 * 3 * 9 + 256 * 5  # zeros are multiplied too


def test_weight_bytes_are_those_of_stored_tensors() -> None:
    stored = {"weight": torch.zeros(10, 10, dtype=torch.int8), "scale": torch.zeros(10)}
    size = size_of(convolutional(), IMAGE, stored, macs=7)
    assert size.weight_bytes == 100 + 40
    assert size.macs == 7


@pytest.mark.parametrize("training", [True, False])
def test_macs_of_attention_include_all_products(training: bool) -> None:
    # The counter does not count fused kernels: in eval mode it would miss a whole block.
    block = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.5, batch_first=True)
    block.train(training)
    tokens = (TensorSpec(name="tokens", datatype="FP32", shape=(-1, 16, 32)),)
    projections, attention, feed_forward = 16 * 32 * 32 * 4, 2 * 16 * 16 * 32, 16 * 32 * 64 * 2
    assert macs_of(block, tokens) == projections + attention + feed_forward
    assert all(layer.training == training for layer in block.modules())
    assert torch.backends.mha.get_fastpath_enabled()


def test_counting_keeps_batch_normalization_unchanged() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).train()
    module[0].eval()
    macs_of(module, IMAGE)
    assert module[1].num_batches_tracked == 0
    assert [layer.training for layer in module] == [False, True]


def test_failed_count_restores_module() -> None:
    module = nn.Linear(7, 2).train()
    with pytest.raises(ForwardError, match=r"RuntimeError: mat1 and mat2.*, in forward of Linear"):
        macs_of(module, IMAGE)
    assert module.training
    assert torch.backends.mha.get_fastpath_enabled()


def test_layer_sizes_follow_layer_names() -> None:
    before = {
        "stem.weight": torch.zeros(10),
        "stem.bias": torch.zeros(2),
        "body.0.conv.weight": torch.zeros(100),
        "gone.weight": torch.zeros(5),
        "token": torch.zeros(3),
    }
    after = {
        "stem.weight": torch.zeros(5),
        "stem.bias": torch.zeros(2),
        "body.0.conv.weight.qdata": torch.zeros(100, dtype=torch.int8),
        "body.0.conv.weight.scale": torch.zeros(2),
        "projection.weight": torch.zeros(1),
        "activation_scale": torch.zeros(2, dtype=torch.float64),
        "token": torch.zeros(3),
    }
    assert layer_sizes(before, after) == (
        LayerSize(name="stem", baseline_bytes=48, bytes=28),
        LayerSize(name="body.0.conv", baseline_bytes=400, bytes=108),
        LayerSize(name="gone", baseline_bytes=20, bytes=0),
        LayerSize(name=UNNAMED, baseline_bytes=12, bytes=28),
        LayerSize(name="projection", baseline_bytes=0, bytes=4),
    )


def test_tensor_belongs_to_innermost_layer() -> None:
    before = {"block.weight": torch.zeros(1), "block.conv.weight": torch.zeros(2)}
    after = {"block.conv.weight.scale": torch.zeros(3), "block.weight.scale": torch.zeros(4)}
    assert [(layer.name, layer.bytes) for layer in layer_sizes(before, after)] == [
        ("block", 16),
        ("block.conv", 12),
    ]

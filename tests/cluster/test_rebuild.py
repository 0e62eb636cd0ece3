"""Rebuilding of pruned models: sizes follow the tensors, mismatches are refused."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torchvision.models import resnet18

from cluster.errors import SourceError
from cluster.models.rebuild import fit
from cluster.models.shortcuts import SelectionShortcut


class Layers(nn.Module):
    """Model with one layer of each kind that stores sizes beside its tensors."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, width)
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.norm = nn.LayerNorm(width)
        self.depthwise = nn.Conv1d(width, width, 3, padding=1, groups=width)
        self.grouped = nn.Conv1d(width, width, 1, groups=2)
        self.batch_norm = nn.BatchNorm1d(width)
        self.group_norm = nn.GroupNorm(2, width)
        self.prelu = nn.PReLU(width)
        self.up = nn.ConvTranspose1d(width, 2 * width, 1)
        self.head = nn.Linear(2 * width, 3)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embedding(ids)
        x = self.norm(x + self.attention(x, x, x, need_weights=False)[0]).transpose(1, 2)
        x = self.prelu(self.group_norm(self.batch_norm(self.grouped(self.depthwise(x)))))
        return self.head(self.up(x).mean(2))


def test_every_kind_of_layer_accepts_smaller_tensors() -> None:
    small, fresh = Layers(8).eval(), Layers(16).eval()
    ids = torch.randint(0, 10, (2, 5))
    fit(fresh, small.state_dict())
    with torch.no_grad():
        assert torch.equal(fresh(ids), small(ids))
    assert str(fresh) == str(small)
    # MultiheadAttention prints no sizes.
    sizes = ("embed_dim", "kdim", "vdim", "num_heads", "head_dim")
    for name in sizes:
        assert getattr(fresh.attention, name) == getattr(small.attention, name)


def test_rebuilt_model_keeps_answers_and_frozen_parameters() -> None:
    torch.manual_seed(0)
    saved = resnet18(num_classes=10).eval()
    fresh = resnet18(num_classes=10).eval()
    fresh.conv1.weight.requires_grad_(False)
    fit(fresh, {name: tensor.clone() for name, tensor in saved.state_dict().items()})
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(fresh(images), saved(images))
    assert not fresh.conv1.weight.requires_grad
    assert fresh.fc.weight.requires_grad


def test_rebuilt_model_keeps_shared_parameters() -> None:
    def tied() -> nn.Sequential:
        model = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 10, bias=False))
        model[1].weight = model[0].weight
        return model

    fresh = tied()
    fit(fresh, {name: tensor.clone() for name, tensor in tied().state_dict().items()})
    assert fresh[0].weight is fresh[1].weight


def test_rebuild_inserts_selection_shortcut() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shortcut = nn.Identity()
            self.conv = nn.Conv2d(2, 4, 1, stride=2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x) + self.shortcut(x)

    pruned = Block()
    pruned.shortcut = SelectionShortcut(torch.eye(4)[:, :2, None, None], (2, 2))
    fresh = Block()
    fit(fresh, pruned.state_dict())
    images = torch.randn(1, 2, 6, 6)
    with torch.no_grad():
        assert torch.equal(fresh(images), pruned(images))
    assert not fresh.shortcut.weight.requires_grad


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop("0.weight"), r"missing: 0\.weight"),
        (lambda tensors: tensors.update(other=torch.ones(1)), r"unknown to the model: other"),
        (
            lambda tensors: tensors.update({"0.bias": torch.ones(2, 2)}),
            r"with another number of dimensions: 0\.bias",
        ),
    ],
)
def test_tensors_of_another_model_are_refused(change, message) -> None:
    module = nn.Sequential(nn.Linear(4, 2))
    before = copy.deepcopy(module.state_dict())
    tensors = {name: tensor + 1 for name, tensor in module.state_dict().items()}
    change(tensors)
    with pytest.raises(SourceError, match=message):
        fit(module, tensors)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())

"""Layer patterns of a recipe: shell wildcards; one without a match names similar layers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cluster.compression.layers import matching
from cluster.errors import CompressionError


@pytest.fixture
def module() -> torch.nn.Module:
    block = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    return nn.ModuleDict({"layer1": block, "layer2": nn.Linear(2, 2), "head": nn.Linear(2, 2)})


def test_patterns_select_layers_in_module_order(module: nn.Module) -> None:
    assert matching(module, ("layer2", "layer1.*"), "keep") == ("layer1.0", "layer1.1", "layer2")
    assert matching(module, ("layer?",), "keep") == ("layer1", "layer2")
    assert matching(module, (), "keep") == ()


def test_pattern_without_layer_names_similar_layers(module: nn.Module) -> None:
    with pytest.raises(CompressionError, match=r"^steps\[1\]\.keep: no layer is called 'layer3'"):
        matching(module, ("layer1", "layer3"), "steps[1].keep")
    with pytest.raises(CompressionError, match="near it: layer2, layer1"):
        matching(module, ("layer22",), "keep")

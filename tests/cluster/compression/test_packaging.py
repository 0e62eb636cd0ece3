"""Record of a build: whether its weights are random."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.compression.packaging import _untrained
from cluster.config.recipe import Recipe

INT8 = {"kind": "quantize", "scheme": "static_int8"}
PRUNE = {"kind": "prune", "method": "structured", "ratio": 0.5}


@pytest.mark.parametrize(
    ("model", "steps", "untrained"),
    [
        ({"source": "torchvision:resnet18"}, [INT8], True),
        ({"source": "python:nets:small"}, [PRUNE, INT8], True),
        ({"source": "torchvision:resnet18", "weights": "IMAGENET1K_V1"}, [INT8], False),
        ({"source": "python:nets:small", "weights": "small.safetensors"}, [], False),
        ({"source": "hf:package:nets/small"}, [INT8], False),
        ({"source": "python:nets:small"}, [{"kind": "train"}], False),
        ({"source": "torchvision:resnet18"}, [{"kind": "distill"}], False),
        ({"source": "torchvision:resnet18"}, [PRUNE | {"recovery": {}}], False),
        ({"source": "python:nets:small"}, [INT8 | {"training": {}}], False),
    ],
)
def test_weights_are_random_without_source_or_training(
    model: dict[str, Any], steps: list[dict[str, Any]], untrained: bool
) -> None:
    recipe = Recipe.model_validate({"name": "r", "model": model, "steps": steps})
    assert _untrained(recipe.model, recipe.steps) == untrained

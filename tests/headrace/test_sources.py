"""Recipes that ``headrace.compress`` makes of files, mappings, models and functions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.config.gate import Gate
from cluster.config.recipe import Recipe
from cluster.config.sources import DataSource, ModelSource
from cluster.config.steps import Quantize, Train
from cluster.errors import ConfigError
from headrace.sources import recipe_of

IMAGE = {"size": 16, "channels": 1, "mean": [0.5], "std": [0.5]}


def factory(num_classes: int) -> torch.nn.Module:
    return torch.nn.Linear(4, num_classes)


def samples() -> None: ...


def recipe(model: Any, data: Any = None, **fields: Any) -> Recipe:
    steps, gate = fields.pop("steps", None), fields.pop("gate", None)
    return recipe_of(model, data, steps, gate, fields)


def test_recipe_file_keeps_its_folder(tmp_path: Path) -> None:
    (tmp_path / "mine.safetensors").touch()
    path = tmp_path / "recipe.yaml"
    path.write_text("{name: a, model: {source: 'torchvision:alexnet', weights: mine.safetensors}}")
    for given in (path, str(path)):
        assert recipe(given).model.weights == str(tmp_path / "mine.safetensors")


def test_mapping_and_object_are_equal_recipes() -> None:
    raw = {"name": "a", "model": {"source": "torchvision:alexnet"}, "gate": {"min_speedup": 2}}
    assert recipe(raw) == recipe(Recipe.model_validate(raw)) == Recipe.model_validate(raw)
    assert "max_accuracy_drop" in recipe(raw).gate.defaults


@pytest.mark.parametrize(
    "model",
    [
        "torchvision:resnet18",
        {"source": "torchvision:resnet18"},
        ModelSource(source="torchvision:resnet18"),
    ],
)
@pytest.mark.parametrize("data", ["digits", {"source": "digits"}, DataSource(), None])
def test_model_and_data_become_a_recipe(model: Any, data: Any) -> None:
    made = recipe(
        model,
        data,
        steps=[Train(kind="train", epochs=2), {"kind": "quantize", "scheme": "bf16"}],
        gate=Gate(max_accuracy_drop=None),
        seed=3,
    )
    assert (made.name, made.model.source, made.data) == (
        "resnet18",
        "torchvision:resnet18",
        DataSource(),
    )
    assert [step.kind for step in made.steps] == ["train", "quantize"]
    assert made.steps[1] == Quantize(kind="quantize", scheme="bf16")
    assert (made.gate.max_accuracy_drop, made.gate.min_speedup, made.seed) == (None, 1.0, 3)
    assert "min_speedup" in made.gate.defaults
    assert "max_accuracy_drop" not in made.gate.defaults


@pytest.mark.parametrize("model", [factory, {"source": factory, "image": IMAGE}])
def test_functions_become_import_names(model: Any) -> None:
    made = recipe(model, samples, name="mine")
    assert made.model.source == f"python:{__name__}:factory"
    assert made.data.source == f"python:{__name__}:samples"
    assert made.name == "mine"


def test_live_module_is_refused_with_alternative() -> None:
    with pytest.raises(ConfigError, match=r"model: an object of type Linear .*'python:module:f"):
        recipe(factory(2))
    with pytest.raises(ConfigError, match=r"data: an object of type list"):
        recipe("torchvision:resnet18", [1, 2])


def test_function_without_module_is_refused() -> None:
    def inner() -> None: ...

    with pytest.raises(ConfigError, match=r"model: .*inner of .* cannot be imported"):
        recipe(inner)
    with pytest.raises(ConfigError, match=r"model: .*<lambda> of .* cannot be imported"):
        recipe(lambda: None)
    factory_of_script = type("Net", (), {"__module__": "__main__"})
    with pytest.raises(ConfigError, match="Net of __main__ cannot be imported"):
        recipe(factory_of_script)


def test_fields_beside_a_recipe_are_refused() -> None:
    raw = {"name": "a", "model": {"source": "torchvision:alexnet"}}
    with pytest.raises(ConfigError, match="data, seed: given beside a recipe"):
        recipe(raw, "digits", seed=1)


def test_wrong_fields_are_named() -> None:
    with pytest.raises(ConfigError, match=r"compress: stepz"):
        recipe("torchvision:resnet18", stepz=[])
    with pytest.raises(ConfigError, match=r"compress: steps\[0\].*epochs"):
        recipe("torchvision:resnet18", steps=[{"kind": "train", "epochs": 0}])
    with pytest.raises(ConfigError, match=r"model\.source.*'resnet18' is not one of torchvision"):
        recipe("resnet18")

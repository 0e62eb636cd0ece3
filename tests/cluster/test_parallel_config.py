"""Cuts in recipes and Serve configs: wrong ones are rejected with their path."""

from __future__ import annotations

import pytest

from cluster.config.base import parse
from cluster.config.recipe import Recipe
from cluster.config.serving import ModelArgs
from cluster.errors import ConfigError


def recipe(parallel: list, **fields: object) -> Recipe:
    raw = {"name": "m", "model": {"source": "torchvision:resnet18"}, "parallel": parallel}
    return parse(raw | fields, Recipe, "recipe.yaml")


@pytest.mark.parametrize(
    ("parallel", "message"),
    [
        ([{}], r"parallel\[0\]: pipeline=1 and tensor=1 cut nothing"),
        ([{"pipeline": 0}], r"parallel\[0\]\.pipeline"),
        ([{"tensor": 2, "kind": "openvino"}], "openvino cannot exchange slices' sums"),
        ([{"pipeline": 2, "slices": {"*.a": "row"}}], "slices need tensor above 1"),
        ([{"tensor": 2, "slices": {"*.a": "diagonal"}}], "'column' or 'row'"),
        ([{"pipeline": 2}, {"pipeline": 2}], r"parallel\[1\] repeats the cut 2 × 1 for cpu-x86"),
        ([{"pipeline": 2, "target": "cuda-sm90"}], r"not one of the programs' targets: cpu-x86"),
        ([{"stages": 2}], "unknown field; known: pipeline"),
    ],
)
def test_recipe_rejects_wrong_cuts(parallel: list, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        recipe(parallel)


@pytest.mark.parametrize("scheme", ["static_int8", "weight_only_int4", "float8"])
def test_recipe_rejects_slices_of_unsupported_scheme(scheme: str) -> None:
    steps = [{"kind": "quantize", "scheme": scheme}]
    with pytest.raises(ConfigError, match=f"tensor=2: {scheme} cannot be sliced, because"):
        recipe([{"tensor": 2}], steps=steps)
    assert recipe([{"pipeline": 2}], steps=steps).parallel[0].pipeline == 2


@pytest.mark.parametrize(
    ("parallel", "message"),
    [
        ({"pipeline": "two"}, r"parallel\.pipeline"),
        ({"placement": "NEAR"}, "'PACK', 'STRICT_PACK' or 'SPREAD'"),
        ({"failure_timeout_s": 0}, "failure_timeout_s"),
        ({"stages": 2}, "unknown field"),
    ],
)
def test_serve_config_rejects_wrong_parallel(parallel: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse({"name": "m", "artifact": "m", "parallel": parallel}, ModelArgs, "args")

"""Cuts that a recipe or a Serve config asks for: the wrong ones are refused by their path."""

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
    ("parallel", "said"),
    [
        ([{}], r"parallel\[0\]: pipeline=1 and tensor=1 cut nothing"),
        ([{"pipeline": 0}], r"parallel\[0\]\.pipeline"),
        ([{"tensor": 2, "kind": "openvino"}], "openvino cannot exchange slices' sums"),
        ([{"pipeline": 2, "slices": {"*.a": "row"}}], "slices go with tensor"),
        ([{"tensor": 2, "slices": {"*.a": "diagonal"}}], "'column' or 'row'"),
        ([{"pipeline": 2}, {"pipeline": 2}], r"parallel\[1\] cuts 2 × 1 for cpu-x86 again"),
        ([{"pipeline": 2, "target": "cuda-sm90"}], r"none of the programs' targets: cpu-x86"),
        ([{"stages": 2}], "no such field; known: pipeline"),
    ],
)
def test_wrong_cuts_are_refused(parallel: list, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        recipe(parallel)


@pytest.mark.parametrize("scheme", ["static_int8", "weight_only_int4", "float8"])
def test_slices_of_what_cannot_be_sliced_are_refused(scheme: str) -> None:
    steps = [{"kind": "quantize", "scheme": scheme}]
    with pytest.raises(ConfigError, match=f"tensor=2: {scheme} cannot be sliced, because"):
        recipe([{"tensor": 2}], steps=steps)
    assert recipe([{"pipeline": 2}], steps=steps).parallel[0].pipeline == 2


@pytest.mark.parametrize(
    ("parallel", "said"),
    [
        ({"pipeline": "two"}, r"parallel\.pipeline"),
        ({"placement": "NEAR"}, "'PACK', 'STRICT_PACK' or 'SPREAD'"),
        ({"failure_timeout_s": 0}, "failure_timeout_s"),
        ({"stages": 2}, "no such field"),
    ],
)
def test_a_wrong_parallel_in_a_serve_config_is_refused(parallel: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse({"name": "m", "artifact": "m", "parallel": parallel}, ModelArgs, "args")

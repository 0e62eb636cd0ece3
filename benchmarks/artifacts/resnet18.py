"""The int8 ResNet-18 of the serving benchmarks: resnet18.yaml → artifact id."""

from __future__ import annotations

from pathlib import Path

from benchmarks.artifacts.builder import Builder
from cluster.config.base import load
from cluster.config.recipe import Recipe

RECIPE = Path(__file__).parent / "resnet18.yaml"


def build(store: str) -> str:
    """Return the artifact's id; the first build takes a minute or two."""
    return Builder(store).build("int8", load(RECIPE, Recipe))

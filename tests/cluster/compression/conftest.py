"""Steps without a job: a model, its data, and what a step may use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch

from cluster.compression.quantize import tensors_of
from cluster.compression.work import StepContext, Work
from cluster.config.recipe import Recipe
from cluster.data import PreparedSamples, load_data
from cluster.models import load_model


@dataclass(frozen=True)
class Bench:
    """A freshly built model of a recipe, before its first step."""

    recipe: Recipe
    work: Work
    context: StepContext
    test: PreparedSamples
    lines: list[str]


@pytest.fixture
def bench(tiny_recipe: Callable[..., Recipe]) -> Callable[..., Bench]:
    """``bench(scheme, model="convolutional", **fields)``, fields being the recipe's."""

    def make(scheme: str | None = None, model: str = "convolutional", **fields: object) -> Bench:
        recipe = tiny_recipe("bench", scheme, model, **fields)
        data = load_data(recipe.data, recipe.seed)
        torch.manual_seed(recipe.seed)
        loaded = load_model(recipe.model, data.labels)
        lines: list[str] = []
        return Bench(
            recipe=recipe,
            work=Work(loaded.module, loaded.inputs, lambda: tensors_of(loaded.module)),
            context=StepContext(
                PreparedSamples(data.train, loaded.inputs, loaded.preprocess),
                recipe.seed,
                lines.append,
            ),
            test=PreparedSamples(data.test, loaded.inputs, loaded.preprocess),
            lines=lines,
        )

    return make

"""Absolute paths of a recipe, because jobs run in other directories.

``$NAME`` and ``${NAME}`` stand for environment variables. A relative path starts at the folder of
the recipe's file. A value that is no path there, such as ``weights: IMAGENET1K_V1`` or a hub id,
does not change.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from cluster.config.recipe import Recipe
from cluster.config.search import Search
from cluster.config.sources import DataSource, ModelSource
from cluster.config.steps import Distill, Step
from cluster.errors import ConfigError


def located(recipe: Recipe, directory: Path) -> Recipe:
    """Return the recipe with absolute paths; ConfigError for an unset environment variable.

    ``directory``: the absolute folder of the recipe's file.
    """
    return recipe.model_copy(
        update={
            "model": _model(recipe.model, directory, "model"),
            "data": _data(recipe.data, directory),
            "search": _search(recipe.search, directory),
            "steps": tuple(
                _step(step, directory, f"steps[{position}]")
                for position, step in enumerate(recipe.steps)
            ),
        }
    )


def _model(model: ModelSource, directory: Path, field: str) -> ModelSource:
    source = _expanded(model.source, f"{field}.source")
    kind, _, rest = source.partition(":")
    if kind == "hf" and (directory / rest).is_dir():
        source = f"hf:{directory / rest}"
    weights = model.weights
    if weights is not None:
        weights = _expanded(weights, f"{field}.weights")
        if (directory / weights).is_file():
            weights = str(directory / weights)
    return model.model_copy(update={"source": source, "weights": weights})


def _data(data: DataSource, directory: Path) -> DataSource:
    for name in ("source", "test_source"):
        value = getattr(data, name)
        if value is None:
            continue
        source = _expanded(value, f"data.{name}")
        kind, _, rest = source.partition(":")
        if kind in ("imagefolder", "safetensors"):
            source = f"{kind}:{directory / rest}"
        data = data.model_copy(update={name: source})
    return data


def _search(search: Search | None, directory: Path) -> Search | None:
    if search is None or not isinstance(search.space.recovery, Distill):
        return search
    recovery = _step(search.space.recovery, directory, "search.space.recovery")
    space = search.space.model_copy(update={"recovery": recovery})
    return search.model_copy(update={"space": space})


def _step(step: Step, directory: Path, field: str) -> Step:
    if not isinstance(step, Distill) or step.teacher is None or step.teacher.model is None:
        return step
    model = _model(step.teacher.model, directory, f"{field}.teacher.model")
    return step.model_copy(update={"teacher": step.teacher.model_copy(update={"model": model})})


def _expanded(value: str, field: str) -> str:
    expanded = os.path.expandvars(value)
    if missing := re.search(r"\$\{?(\w+)\}?", expanded):
        raise ConfigError(
            f"{field}: {value!r} needs the environment variable {missing.group(1)}, which is not "
            "set; export it, or write the path itself"
        )
    return expanded

"""Recipe of what ``headrace.compress`` is given.

    recipe.yaml, mapping, Recipe     → Recipe
    model, data, steps, gate, fields → Recipe     a function stands for ``python:module:function``

Jobs run in other processes, so paths become absolute and functions become names to import.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FunctionType
from typing import Any

from cluster.config.base import Config, load, parse
from cluster.config.gate import Gate
from cluster.config.locate import located
from cluster.config.recipe import Recipe
from cluster.config.sources import DataSource, ModelSource
from cluster.config.steps import Distill, Prune, Quantize, ReplaceActivation, Train
from cluster.errors import ConfigError

Factory = Callable[..., Any]
ModelOrRecipe = str | os.PathLike[str] | Mapping[str, Any] | Recipe | ModelSource | Factory
Data = str | Mapping[str, Any] | DataSource | Factory
Steps = Sequence[Mapping[str, Any] | Train | Prune | Distill | Quantize | ReplaceActivation]
Limits = Mapping[str, Any] | Gate


def recipe_of(
    model_or_recipe: ModelOrRecipe,
    data: Data | None,
    steps: Steps | None,
    gate: Limits | None,
    fields: Mapping[str, Any],
) -> Recipe:
    """Return the recipe, checked, with absolute paths.

    ``fields``: further fields of the recipe. ConfigError with the field, the value and the fix.
    """
    named = {"data": data, "steps": steps, "gate": gate, **fields}
    extra = {name: value for name, value in named.items() if value is not None}
    if _is_recipe(model_or_recipe):
        if extra:
            raise ConfigError(
                f"{', '.join(extra)}: given beside a recipe, which has its own; change the recipe, "
                "or give a model source in place of the recipe"
            )
        return _written(model_or_recipe)
    model = _source(model_or_recipe, "model")
    if data is not None:
        extra["data"] = _source(data, "data")
    raw = {"name": _default_name(model["source"]), "model": model, **extra}
    return located(parse(_plain(raw), Recipe, "compress"), Path.cwd())


def _is_recipe(value: Any) -> bool:
    if isinstance(value, Mapping):
        return "model" in value
    is_file = isinstance(value, os.PathLike) or str(value).endswith((".yaml", ".yml"))
    return isinstance(value, Recipe) or (isinstance(value, str | os.PathLike) and is_file)


def _written(recipe: Any) -> Recipe:
    """Return a recipe that is complete: a file, a mapping or an object."""
    if isinstance(recipe, str | os.PathLike):
        path = Path(recipe)
        return located(load(path, Recipe), path.parent.absolute())
    if not isinstance(recipe, Recipe):
        recipe = parse(_plain(recipe), Recipe, "recipe")
    return located(recipe, Path.cwd())


def _source(value: Any, field: str) -> dict[str, Any]:
    """Return the fields of a model or data source. ConfigError for an object in this process."""
    if isinstance(value, str):
        return {"source": value}
    if isinstance(value, Config | Mapping):
        fields = dict(_plain(value))
        if isinstance(source := fields.get("source"), str):
            return fields
        if source is not None:
            return {**fields, **_source(source, f"{field}.source")}
        raise ConfigError(f"{field}: expected a mapping with `source`, got {fields!r:.200}")
    if isinstance(value, FunctionType | type):
        return {"source": f"python:{_import_name(value, field)}"}
    raise ConfigError(
        f"{field}: an object of type {type(value).__name__} exists in this process only, and a job "
        "builds it in others; give the function that returns it, or its name as "
        "'python:module:function', and saved weights as model.weights"
    )


def _import_name(factory: Any, field: str) -> str:
    module, name = factory.__module__, factory.__qualname__
    if module == "__main__" or "<" in name:
        raise ConfigError(
            f"{field}: {name} of {module} cannot be imported by the job's processes; define it at "
            "the top of a module, and import it from there"
        )
    return f"{module}:{name}"


def _default_name(source: str) -> str:
    """Return the last word of a source: ``resnet18`` of ``torchvision:resnet18``."""
    return source.rpartition(":")[2].rstrip("/").rpartition("/")[2]


def _plain(value: Any) -> Any:
    if isinstance(value, Config):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value

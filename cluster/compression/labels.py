"""Check that a recipe's data has labels, if a part of the recipe needs them.

This runs before the build: unlabelled samples all carry label 0, which a loss would learn.
"""

from __future__ import annotations

from collections.abc import Iterator

from cluster.config.recipe import Recipe
from cluster.config.search import Search
from cluster.config.steps import Distill, Prune, Quantize, Step, Train
from cluster.data import LabelledData, require_labels


def check(recipe: Recipe, data: LabelledData) -> None:
    """Raise SourceError, naming the part, if one needs labels that the data lacks."""
    for part in _labelled_parts(recipe):
        require_labels(data, part)


def _labelled_parts(recipe: Recipe) -> Iterator[str]:
    for position, step in enumerate(recipe.steps):
        if (use := _use_in_step(step)) is not None:
            yield f"steps[{position}] ({use})"
    if recipe.search is not None and (use := _use_in_search(recipe.search)) is not None:
        yield f"search.space ({use})"
    if "accuracy" in recipe.evaluation.metrics:
        yield "evaluation.metrics (accuracy)"


def _use_in_step(step: Step) -> str | None:
    if isinstance(step, Train):
        return "train"
    if isinstance(step, Distill):
        terms = [loss.name for loss in step.losses]
        return "distill by cross_entropy" if "cross_entropy" in terms else None
    if isinstance(step, Prune):
        if step.recovery is not None:
            return "prune with recovery"
        taylor = step.method == "structured" and step.importance == "taylor"
        return "prune by Taylor importance" if taylor else None
    if isinstance(step, Quantize) and step.training is not None:
        return "quantization-aware training"
    return None


def _use_in_search(search: Search) -> str | None:
    space = search.space
    if space.prune is None:
        return None
    if space.prune.method == "structured" and space.prune.importance == "taylor":
        return "prune by Taylor importance"
    return _use_in_step(space.recovery) if isinstance(space.recovery, Distill) else "recovery"

"""Which parts of a recipe need labels: asked before anything starts.

Samples without labels all carry label 0, and a loss would take that for the truth.
"""

from __future__ import annotations

from collections.abc import Iterator

from cluster.config.recipe import Recipe
from cluster.config.search import Search
from cluster.config.steps import Distill, Prune, Quantize, Step, Train
from cluster.data import LabelledData, require_labels


def check(recipe: Recipe, data: LabelledData) -> None:
    """SourceError, naming the part, if one needs labels that the data does not have."""
    for why in _needing(recipe):
        require_labels(data, why)


def _needing(recipe: Recipe) -> Iterator[str]:
    for position, step in enumerate(recipe.steps):
        if (why := _why(step)) is not None:
            yield f"steps[{position}] ({why})"
    if recipe.search is not None and (why := _why_search(recipe.search)) is not None:
        yield f"search.space ({why})"
    if "accuracy" in recipe.evaluation.metrics:
        yield "evaluation.metrics (accuracy)"


def _why(step: Step) -> str | None:
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


def _why_search(search: Search) -> str | None:
    space = search.space
    if space.prune is None:
        return None
    if space.prune.method == "structured" and space.prune.importance == "taylor":
        return "prune by Taylor importance"
    return _why(space.recovery) if isinstance(space.recovery, Distill) else "recovery"

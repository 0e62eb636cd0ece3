"""Check that a recipe's data has the labels that its parts need, each no more than it uses.

training on labels       every class among the training samples
metrics, importance      labels; a class without samples is not scored

This runs before the build: unlabelled samples all carry label 0, which a loss would learn.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cluster.config.recipe import METRICS, Recipe
from cluster.config.search import Search
from cluster.config.steps import Distill, Prune, Quantize, Step, Train
from cluster.data import LabelledData, require_every_class, require_labels


def check(recipe: Recipe, data: LabelledData) -> None:
    """Raise SourceError, naming the part, if one needs labels that the data lacks."""
    for part, use in labelled_parts(recipe):
        require = require_every_class if use.learns else require_labels
        require(data, f"{part} ({use.name})")


@dataclass(frozen=True)
class Use:
    """Use of labels by a part of the recipe. ``learns``: it fits the weights to them."""

    name: str
    learns: bool = True


_IMPORTANCE = Use("prune by Taylor importance", learns=False)


def labelled_parts(recipe: Recipe) -> Iterator[tuple[str, Use]]:
    """Yield the parts of the recipe that use labels."""
    for position, step in enumerate(recipe.steps):
        if (use := _use_in_step(step)) is not None:
            yield f"steps[{position}]", use
    if recipe.search is not None and (use := _use_in_search(recipe.search)) is not None:
        yield "search.space", use
    for metric in recipe.evaluation.metrics:
        if METRICS.get(metric) is not None:
            yield "evaluation.metrics", Use(metric, learns=False)


def _use_in_step(step: Step) -> Use | None:
    if isinstance(step, Train):
        return Use("train")
    if isinstance(step, Distill):
        terms = [loss.name for loss in step.losses]
        return Use("distill by cross_entropy") if "cross_entropy" in terms else None
    if isinstance(step, Prune):
        if step.recovery is not None:
            return Use("prune with recovery")
        taylor = step.method == "structured" and step.importance == "taylor"
        return _IMPORTANCE if taylor else None
    if isinstance(step, Quantize) and step.training is not None:
        return Use("quantization-aware training")
    return None


def _use_in_search(search: Search) -> Use | None:
    space = search.space
    if space.prune is None:
        return None
    recovery = (
        _use_in_step(space.recovery) if isinstance(space.recovery, Distill) else Use("recovery")
    )
    if recovery is not None:
        return recovery
    taylor = space.prune.method == "structured" and space.prune.importance == "taylor"
    return _IMPORTANCE if taylor else None

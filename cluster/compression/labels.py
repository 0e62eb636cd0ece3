"""Check that a recipe's data has the labels that its parts need, each no more than it uses.

training on labels       every class among the training samples
accuracy, importance     labels; a class without samples is not scored

This runs before the build: unlabelled samples all carry label 0, which a loss would learn.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cluster.config.recipe import Recipe
from cluster.config.search import Search
from cluster.config.steps import Distill, Prune, Quantize, Step, Train
from cluster.data import LabelledData, require_every_class, require_labels


def check(recipe: Recipe, data: LabelledData) -> None:
    """Raise SourceError, naming the part, if one needs labels that the data lacks."""
    for part, use in _labelled_parts(recipe):
        require = require_every_class if use.learns else require_labels
        require(data, f"{part} ({use.name})")


@dataclass(frozen=True)
class _Use:
    """Use of labels by a part of the recipe. ``learns``: it fits the weights to them."""

    name: str
    learns: bool = True


_IMPORTANCE = _Use("prune by Taylor importance", learns=False)


def _labelled_parts(recipe: Recipe) -> Iterator[tuple[str, _Use]]:
    for position, step in enumerate(recipe.steps):
        if (use := _use_in_step(step)) is not None:
            yield f"steps[{position}]", use
    if recipe.search is not None and (use := _use_in_search(recipe.search)) is not None:
        yield "search.space", use
    if "accuracy" in recipe.evaluation.metrics:
        yield "evaluation.metrics", _Use("accuracy", learns=False)


def _use_in_step(step: Step) -> _Use | None:
    if isinstance(step, Train):
        return _Use("train")
    if isinstance(step, Distill):
        terms = [loss.name for loss in step.losses]
        return _Use("distill by cross_entropy") if "cross_entropy" in terms else None
    if isinstance(step, Prune):
        if step.recovery is not None:
            return _Use("prune with recovery")
        taylor = step.method == "structured" and step.importance == "taylor"
        return _IMPORTANCE if taylor else None
    if isinstance(step, Quantize) and step.training is not None:
        return _Use("quantization-aware training")
    return None


def _use_in_search(search: Search) -> _Use | None:
    space = search.space
    if space.prune is None:
        return None
    recovery = (
        _use_in_step(space.recovery) if isinstance(space.recovery, Distill) else _Use("recovery")
    )
    if recovery is not None:
        return recovery
    taylor = space.prune.method == "structured" and space.prune.importance == "taylor"
    return _IMPORTANCE if taylor else None

"""Check that metrics, losses and labels fit the meaning of the model's output.

    model.activation ─┬─ evaluation.metrics    compares outputs with such labels?
                      ├─ losses of the steps   defined for such outputs?
                      └─ data                  labels of this kind?

It runs after the model is loaded, whose source may decide the activation, before anything is
computed.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from cluster.activation import OutputActivation
from cluster.compression.labels import labelled_parts
from cluster.compression.training.losses import DISTILLATION_LOSSES, LABEL_LOSSES
from cluster.config.recipe import METRICS, Recipe
from cluster.config.steps import Distill, Prune, Quantize, Recovery, Step, Train
from cluster.data import LabelledData
from cluster.errors import SourceError
from cluster.models import LoadedModel

_OUTPUTS: dict[OutputActivation, str] = {
    "softmax": "one of several labels",
    "sigmoid": "independent labels",
    "none": "numbers",
}
_LABELS: dict[OutputActivation, str] = {
    "softmax": "classes (integers [N])",
    "sigmoid": "independent labels (bool or 0 and 1 [N, labels])",
    "none": "numbers (floats [N] or [N, numbers])",
}
_FITTING = {
    name: set(losses)
    for table in (LABEL_LOSSES, DISTILLATION_LOSSES)
    for name, losses in table.items()
}
"""Loss → activations that it is defined for; one between layers fits all."""


def check(recipe: Recipe, data: LabelledData, model: LoadedModel) -> None:
    """Raise SourceError, naming the field to change, if a part of the recipe does not fit."""
    _metrics(recipe, model)
    for field, loss in _losses(recipe):
        if model.activation not in _FITTING.get(loss, _OUTPUTS):
            raise SourceError(
                f"{field}: {loss} compares labels, but the model returns "
                f"{_described(model.activation)}; set it to mse. Nothing was built"
            )
    used = bool(model.labels) or any(labelled_parts(recipe))
    if data.labels and used and data.train.activation != model.activation:
        raise SourceError(
            f"{recipe.data.source} has {_LABELS[data.train.activation]} as labels, but the model "
            f"returns {_described(model.activation)}, which learns {_LABELS[model.activation]}; "
            f"change the data's labels, or model.activation to {data.train.activation}. Nothing "
            "was built"
        )
    if "r2" in recipe.evaluation.metrics:
        _variance(recipe, data)


def _metrics(recipe: Recipe, model: LoadedModel) -> None:
    for name in recipe.evaluation.metrics:
        needed = METRICS.get(name)
        if needed is None or needed == model.activation:
            continue
        named = model.activation if model.labels else None
        fitting = [other for other, kind in METRICS.items() if kind == named]
        raise SourceError(
            f"evaluation.metrics: {name} compares {_OUTPUTS[needed]}, but the model returns "
            f"{_described(model.activation)}; use {' or '.join(fitting)}, or set model.activation: "
            f"{needed} if that is their meaning. Nothing was built"
        )


def _described(activation: OutputActivation) -> str:
    return f"{_OUTPUTS[activation]} (model.activation: {activation})"


def _losses(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Yield the field and the name of every loss."""
    for position, step in enumerate(recipe.steps):
        yield from _losses_of(f"steps[{position}]", step)
    if recipe.search is not None and recipe.search.space.prune is not None:
        yield from _losses_of("search.space.recovery", recipe.search.space.recovery)


def _losses_of(field: str, step: Step | Recovery | None) -> Iterator[tuple[str, str]]:
    match step:
        case Train() | Recovery():
            yield f"{field}.loss", step.loss
        case Distill():
            for position, term in enumerate(step.losses):
                yield f"{field}.losses[{position}].name", term.name
        case Prune():
            yield from _losses_of(f"{field}.recovery", step.recovery)
        case Quantize():
            yield from _losses_of(f"{field}.training", step.training)


def _variance(recipe: Recipe, data: LabelledData) -> None:
    """Raise SourceError if a number is equal in all samples that R² is computed on."""
    held_out = data.test.labels[: recipe.evaluation.samples]
    for title, labels in (("held-out", held_out), ("validation", data.validation.labels)):
        constant = np.flatnonzero(np.ptp(labels, axis=0) == 0)
        if len(constant):
            raise SourceError(
                f"evaluation.metrics: r2 is relative to the labels' variance, which is 0 for "
                f"{data.labels[constant[0]]!r} in the {len(labels)} {title} samples; give more "
                "samples (data, evaluation.samples), or another first metric. Nothing was built"
            )

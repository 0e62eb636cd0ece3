"""Warnings in the first lines of a report: scores that say little, and their likely cause."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cluster.compression.figures import percent
from cluster.compression.record import BuildRecord

_LEAST_SKILL = 0.1
"""Share of the way from chance to 1 that a useful accuracy has at least."""

_BELOW_CARD = 0.01


@dataclass(frozen=True)
class Caution:
    """Warning at the top of the page: the cause in bold, then its consequence."""

    cause: str
    consequence: str

    def __str__(self) -> str:
        return f"{self.cause}{self.consequence}"


def cautions(record: BuildRecord) -> list[Caution]:
    """Return the warnings on a build, the most important first."""
    if record.random_weights:  # explains low scores already
        return [_random_weights(record)]
    return [*_scores(record)]


def _random_weights(record: BuildRecord) -> Caution:
    source = record.recipe.get("model", {}).get("source", "")
    if source.startswith("python:"):  # a factory may load its weights itself
        cause = "No weights were given and none were trained. "
        random = f"Unless {source} loads weights itself, they are random and the scores say nothing"
    else:
        cause = "The weights were never trained. "
        random = "The model was built with random weights, so its scores say nothing"
    return Caution(
        cause,
        f"{random}; sizes, multiply-accumulates and latencies are those of the real architecture.",
    )


def _scores(record: BuildRecord) -> Iterator[Caution]:
    better = record.source_check.better_normalization
    if better is not None:
        mean, std = [*better.mean], [*better.std]
        yield Caution(
            "Another mean and std score more than the recipe's. ",
            f"With mean {mean} and std {std} the model before compression is right on "
            f"{percent(better.accuracy)} of {better.samples} validation samples, with the "
            f"recipe's on {percent(better.stated_accuracy)}. Check model.image.",
        )
    baseline = record.baseline
    if record.metric != "accuracy" or baseline is None:
        return
    chance = record.data.get("largest_class_share")
    if chance is not None and baseline.accuracy < chance + _LEAST_SKILL * (1 - chance):
        yield Caution(
            "The baseline's accuracy is near chance. ",
            f"It is {percent(baseline.accuracy)}; the largest class is {percent(chance)} of the "
            "held-out samples. Check the data's labels and their order, and model.image.",
        )
    card = record.source_check.card_accuracy
    if card is not None and baseline.accuracy_high < card - _BELOW_CARD:
        yield Caution(
            "The baseline's accuracy is below its card. ",
            f"It is {percent(baseline.accuracy)}, at most {percent(baseline.accuracy_high)} (95 % "
            f"CI); the weights' own card states {percent(card)}. Check model.image, the data's "
            "labels and their order, unless these samples are harder.",
        )

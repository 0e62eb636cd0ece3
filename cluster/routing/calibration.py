"""Threshold of a cascade that keeps an agreement or accuracy goal at the least cost.

scores of every target on labelled samples → for each threshold: agreement, accuracy, cost
    → the smallest threshold that reaches the goal: fewer items continue than at any larger one
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from cluster.errors import ConfigError
from cluster.routing.cascade import confidence


@dataclass(frozen=True)
class CascadeGoal:
    """Goal of a cascade; exactly one of the two fields is set."""

    agreement: float | None = None
    """Smallest share of items with the same label as from the last target, 0..1."""

    max_accuracy_drop: float | None = None
    """Largest drop of the accuracy below the last target's, 0..1."""

    def __str__(self) -> str:
        if self.agreement is not None:
            return f"agreement ≥ {self.agreement:g}"
        return f"accuracy drop ≤ {self.max_accuracy_drop:g}"


class CascadeMeasurement(BaseModel):
    """Measurement of a cascade on a set of samples."""

    model_config = ConfigDict(frozen=True, extra="forbid", serialize_by_alias=True)

    samples: int
    accuracy: float
    agreement: float
    """Agreement with the last target."""

    target_accuracy: tuple[float, ...]
    """Accuracy of every target alone."""

    target_share: tuple[float, ...] = Field(
        validation_alias=AliasChoices("target_share", "asked"), serialization_alias="asked"
    )
    """Share of the items that each target computes; the first one's is 1.

    Stored as ``asked``, which routers of earlier versions read, too.
    """

    cost: float
    """Time of the cascade to that of the last target alone."""


class Calibration(BaseModel):
    """Thresholds of a cascade of specific artifacts, as in the store."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    targets: tuple[str, ...]
    goal: str
    thresholds: tuple[float, ...]
    chosen_on: CascadeMeasurement
    held_out: CascadeMeasurement
    """Measurement of the same thresholds on held-out samples."""


def measure(
    scores: Sequence[np.ndarray], labels: np.ndarray, threshold: float, item_ms: Sequence[float]
) -> CascadeMeasurement:
    """Return the measurement of a cascade with one threshold.

    ``scores``: every target's probabilities ``[samples, classes]``, cheapest first; ``labels``:
    int64 ``[samples]``; ``item_ms``: each target's time for one item.
    """
    answers = np.stack([probabilities.argmax(axis=1) for probabilities in scores])
    sure = np.stack([confidence(probabilities) >= threshold for probabilities in scores])
    sure[-1] = True
    by = sure.argmax(axis=0)  # the first confident target
    chosen = np.take_along_axis(answers, by[None], axis=0)[0]
    shares = [float((by >= target).mean()) for target in range(len(scores))]
    spent = sum(share * ms for share, ms in zip(shares, item_ms, strict=True))
    return CascadeMeasurement(
        samples=len(labels),
        accuracy=float((chosen == labels).mean()),
        agreement=float((chosen == answers[-1]).mean()),
        target_accuracy=tuple(float((answer == labels).mean()) for answer in answers),
        target_share=tuple(shares),
        cost=spent / item_ms[-1],
    )


def smallest_threshold(
    scores: Sequence[np.ndarray], labels: np.ndarray, goal: CascadeGoal, item_ms: Sequence[float]
) -> float:
    """Return the smallest threshold, the same for all targets but the last, that reaches ``goal``.

    Arguments as of :func:`measure`. ConfigError, with the best measurement, if none does.
    """
    # Results change only at a confidence; at 0 the first target answers everything.
    steps = np.unique(np.concatenate([confidence(target) for target in scores[:-1]]))
    for threshold in (0.0, *steps.tolist(), 1.0):
        if _reaches(measure(scores, labels, threshold, item_ms), goal):
            return float(threshold)
    best = measure(scores, labels, 1.0, item_ms)
    raise ConfigError(
        f"no threshold reaches {goal}: at 1, agreement is {best.agreement:.4f} and accuracy "
        f"{best.accuracy:.4f} (the last target alone: {best.target_accuracy[-1]:.4f}); choose a "
        "lower goal"
    )


def _reaches(result: CascadeMeasurement, goal: CascadeGoal) -> bool:
    if goal.agreement is not None:
        return result.agreement >= goal.agreement
    return result.accuracy >= result.target_accuracy[-1] - (goal.max_accuracy_drop or 0.0)

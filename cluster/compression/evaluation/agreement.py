"""Agreement of a program's outputs with the baseline's, without labels. Pure.

    outputs, the baseline's outputs ─ agreement ─→ Agreement: mean, one-sided lower bound
        classes: equal predictions   embeddings: cosine, or the recipe's ranking

An accuracy drop alone does not show a model that loses some right answers and gains as many others,
nor a change from a baseline that is often wrong.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from cluster.artifact.manifest import Agreement
from cluster.compression.evaluation import metrics

Measure = Literal["predictions", "cosine", "ranking"]


def measure_for(metric: str, labelled: bool, outputs: np.ndarray, baseline: np.ndarray) -> Measure:
    """Return the measure of agreement for a recipe whose first metric is ``metric``.

    ``cosine`` and ``ranking`` already compare with the baseline. For ``accuracy``, and a user's
    metric on ``labelled`` data, predictions are compared. Other outputs, and
    those of a single column, which have no class, are compared as vectors: by cosine, or by ranking
    if sizes differ.
    """
    if metric == "cosine":
        return "cosine"
    if metric == "ranking":
        return "ranking"
    if (metric == "accuracy" or labelled) and min(outputs.shape[1], baseline.shape[1]) > 1:
        return "predictions"
    return "cosine" if outputs.shape == baseline.shape else "ranking"


def agreement(
    measure: Measure, outputs: np.ndarray, baseline: np.ndarray, confidence: float
) -> Agreement:
    """Return the agreement of ``outputs`` ``[N, D]`` with those of ``baseline`` ``[N, D']``.

    ``lower`` is a one-sided bound: with probability ``confidence`` the true agreement is not less.
    It is Wilson's for a share of equal predictions, Student's for a mean similarity.
    """
    labels = baseline.argmax(axis=1)
    if measure == "predictions":
        same = metrics.accuracy(outputs, labels, baseline)
        low = metrics.wilson(int(same.sum()), len(same), confidence).low
        return Agreement(measure=measure, mean=float(same.mean()), lower=low, confidence=confidence)
    scores = metrics.METRICS[measure](outputs, labels, baseline)
    below = metrics.drop(np.ones(len(scores)), scores, confidence)
    return Agreement(
        measure=measure,
        mean=1 - below.mean,
        lower=max(0.0, 1 - below.upper),
        confidence=confidence,
    )

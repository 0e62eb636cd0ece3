"""Agreement of a program's outputs with the baseline's, without labels. Pure.

    outputs, the baseline's outputs ─ agreement ─→ Agreement: mean, one-sided lower bound
        softmax: equal predictions   embeddings: cosine, or the recipe's ranking
        sigmoid: F1 of the labels    numbers: explained variance

An accuracy drop alone does not show a model that loses some right answers and gains as many others,
nor a change from a baseline that is often wrong.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from cluster.activation import OutputActivation, decisions
from cluster.artifact.manifest import Agreement
from cluster.compression.evaluation import metrics

Measure = Literal["predictions", "labels", "numbers", "cosine", "ranking"]


def measure_for(
    metric: str,
    activation: OutputActivation,
    labelled: bool,
    outputs: np.ndarray,
    baseline: np.ndarray,
) -> Measure:
    """Return the measure of agreement for a recipe whose first metric is ``metric``.

    ``cosine`` and ``ranking`` already compare with the baseline. For ``accuracy``, and a user's
    metric on ``labelled`` data, predictions are compared: those of independent labels by F1, and
    numbers by explained variance. Other outputs are compared as vectors: by cosine, or by ranking
    if sizes differ. A single number has no direction.
    """
    if metric == "cosine":
        return "cosine"
    if metric == "ranking":
        return "ranking"
    single = outputs.shape == baseline.shape and outputs.shape[1] == 1
    if metric == "accuracy" or labelled or single:
        if activation == "softmax" and min(outputs.shape[1], baseline.shape[1]) > 1:
            return "predictions"
        if outputs.shape == baseline.shape:
            return "labels" if activation == "sigmoid" else "numbers"
    return "cosine" if outputs.shape == baseline.shape else "ranking"


def agreement(
    measure: Measure, outputs: np.ndarray, baseline: np.ndarray, confidence: float
) -> Agreement:
    """Return the agreement of ``outputs`` ``[N, D]`` with those of ``baseline`` ``[N, D']``.

    ``lower`` is a one-sided bound: with probability ``confidence`` the true agreement is not less.
    It is Wilson's for a share of equal predictions, Student's for a mean. Labels are compared by
    their F1, numbers by R², with the baseline's in place of the right ones.
    """
    labels = baseline.argmax(axis=1)
    if measure == "predictions":
        same = metrics.accuracy(outputs, labels, baseline)
        low = metrics.wilson(int(same.sum()), len(same), confidence).low
        return Agreement(measure=measure, mean=float(same.mean()), lower=low, confidence=confidence)
    if measure == "labels":
        scores = metrics.f1(outputs, decisions(baseline, "sigmoid", 0.0), baseline)
    elif measure == "numbers":
        scores = metrics.r2(outputs, baseline, baseline)
    else:
        scores = metrics.METRICS[measure](outputs, labels, baseline)
    below = metrics.drop(np.ones(len(scores)), scores, confidence)
    return Agreement(
        measure=measure,
        mean=1 - below.mean,
        lower=max(0.0, 1 - below.upper),
        confidence=confidence,
    )

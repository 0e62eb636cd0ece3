"""Items of a request that continue to a larger model: those with a low confidence."""

from __future__ import annotations

import numpy as np


def confidence(probabilities: np.ndarray) -> np.ndarray:
    """Return the confidence of each item: its largest probability, ``[items]``.

    Maximum softmax probability (Hendrycks and Gimpel 2017).
    """
    highest: np.ndarray = probabilities.max(axis=1)
    return highest


def going_on(probabilities: np.ndarray, threshold: float) -> np.ndarray:
    """Return the positions of the items below the threshold, increasing; int64 ``[n]``.

    The comparison is negated so that NaN continues as well.
    """
    return np.flatnonzero(~(confidence(probabilities) >= threshold))

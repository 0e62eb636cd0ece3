"""Which items of a request go on to a larger model, and the answers put together again."""

from __future__ import annotations

import numpy as np


def confidence(probabilities: np.ndarray) -> np.ndarray:
    """How sure a model is of each item: its largest probability, ``[items]``.

    Hendrycks and Gimpel 2017, maximum softmax probability.
    """
    highest: np.ndarray = probabilities.max(axis=1)
    return highest


def going_on(probabilities: np.ndarray, threshold: float) -> np.ndarray:
    """The positions of the items that are not sure enough, increasing; int64 ``[n]``.

    Written so that NaN, of which nobody is sure, goes on.
    """
    return np.flatnonzero(~(confidence(probabilities) >= threshold))

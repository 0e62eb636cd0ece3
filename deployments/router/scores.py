"""Probabilities of the labels, from a target's answer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cluster.activation import probabilities
from cluster.routing.contracts import Contract, Scores


def distribution(contract: Contract, outputs: Sequence[np.ndarray]) -> np.ndarray:
    """Return the probabilities of the labels, float32 ``[items, labels]``.

    The target's first output has a score for each label; the route's contract has checked that.
    """
    first = outputs[0]
    if contract.scores is Scores.PROBABILITIES:
        return first
    return probabilities(first.astype(np.float32), contract.activation)

"""What a target's answer says of the labels, as probabilities."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cluster.routing.contracts import Contract, Scores
from cluster.routing.ensemble import probabilities


def distribution(contract: Contract, outputs: Sequence[np.ndarray]) -> np.ndarray:
    """The probabilities of the labels, float32 ``[items, labels]``.

    Of a target whose first output tells labels apart, which the route's contract has made sure of.
    """
    first = outputs[0]
    return first if contract.scores is Scores.PROBABILITIES else probabilities(first)

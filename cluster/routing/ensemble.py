"""Several answers combined into one: probabilities and votes, ``[items, classes]`` float32."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def mean(answers: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """Return the weighted mean of probabilities, each ``[items, classes]``."""
    shares = np.asarray(weights, np.float32) / np.float32(sum(weights))
    total: np.ndarray = sum(
        (share * answer for share, answer in zip(shares, answers, strict=True)),
        np.zeros_like(answers[0]),
    )
    return total


def vote(answers: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """Return the share of the votes of each class, ``[items, classes]``.

    Every answer votes, by its weight, for its likeliest class. A millionth of the result is the
    weighted mean of the probabilities, which breaks ties.
    """
    votes = [np.eye(answer.shape[1], dtype=np.float32)[answer.argmax(axis=1)] for answer in answers]
    tie = np.float32(1e-6)
    return (1 - tie) * mean(votes, weights) + tie * mean(answers, weights)

"""Meaning of a model's first output: the activation that follows it. Pure.

    softmax   one of the labels    shares that sum to 1         the largest logit
    sigmoid   any of the labels    independent probabilities    every logit above 0
    none      numbers, such as a regression's or an embedding   as they are

A model returns its output before the activation. Metrics, losses, answers and routes apply it.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

OutputActivation = Literal["softmax", "sigmoid", "none"]

VALUES = "values"
"""Output name of a model without activation that is no embedding."""


def probabilities(logits: np.ndarray, activation: OutputActivation) -> np.ndarray:
    """Return the probability of each label, ``[..., labels]``, in the floating dtype of ``logits``.

        softmax   p_i = exp(z_i - max z) / sum_j exp(z_j - max z)
        sigmoid   p_i = 1 / (1 + exp(-z_i)), computed from exp(-|z_i|)

    Both forms keep exp from overflowing. ValueError without activation.
    """
    if activation == "none":
        raise ValueError("numbers have no probabilities")
    if activation == "softmax":
        weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
        shares: np.ndarray = weights / weights.sum(axis=-1, keepdims=True)
        return shares
    powers = np.exp(-np.abs(logits))
    independent: np.ndarray = np.where(logits >= 0, 1, powers) / (1 + powers)
    return independent


def decisions(scores: np.ndarray, activation: OutputActivation, threshold: float) -> np.ndarray:
    """Return the chosen labels of ``scores`` ``[items, labels]``, bool of the same shape.

    softmax: the first label with the largest score. sigmoid: every label above ``threshold``, 0 for
    logits and 0.5 for probabilities. ValueError without activation.
    """
    if activation == "none":
        raise ValueError("numbers choose no labels")
    if activation == "softmax":
        largest: np.ndarray = np.eye(scores.shape[1], dtype=np.bool_)[scores.argmax(axis=1)]
        return largest
    above: np.ndarray = scores > threshold
    return above

"""Activations of outputs, compared with PyTorch's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cluster.activation import decisions, probabilities

LOGITS = np.float64([[0.5, -2, 3], [1e4, -1e4, 0], [-np.inf, 700, -700]])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_probabilities_are_those_of_torch(dtype: type) -> None:
    logits = LOGITS.astype(dtype)
    tensor = torch.from_numpy(logits)
    expected = {"softmax": tensor.softmax(1), "sigmoid": tensor.sigmoid()}
    with np.errstate(over="raise"):
        for activation in ("softmax", "sigmoid"):
            shares = probabilities(logits, activation)
            assert shares.dtype == dtype
            np.testing.assert_allclose(shares, expected[activation].numpy(), rtol=1e-6)


def test_decisions_follow_the_activation() -> None:
    scores = np.float32([[0.6, 0.9, 0.1], [0.5, 0.2, 0.5]])
    assert decisions(scores, "softmax", 0.5).astype(int).tolist() == [[0, 1, 0], [1, 0, 0]]
    assert decisions(scores, "sigmoid", 0.5).astype(int).tolist() == [[1, 1, 0], [0, 0, 0]]


def test_numbers_have_neither_probabilities_nor_labels() -> None:
    with pytest.raises(ValueError, match="no probabilities"):
        probabilities(LOGITS, "none")
    with pytest.raises(ValueError, match="no labels"):
        decisions(LOGITS, "none", 0)

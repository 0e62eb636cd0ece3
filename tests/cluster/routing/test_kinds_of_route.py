"""Probabilities, votes, cascades, parts and agreement, compared with plain arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.activation import probabilities
from cluster.routing.cascade import going_on
from cluster.routing.ensemble import mean, vote
from cluster.routing.scatter import parts
from cluster.routing.shadow import Comparison, ShadowTotals


def test_probabilities_equal_softmax_without_overflow() -> None:
    logits = np.array([[0.0, np.log(3.0)], [1000.0, 1000.0]])
    result = probabilities(logits.astype(np.float32), "softmax")
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, [[0.25, 0.75], [0.5, 0.5]], rtol=1e-6)


def test_mean_is_weighted() -> None:
    first, second = np.float32([[1.0, 0.0]]), np.float32([[0.2, 0.8]])
    np.testing.assert_allclose(mean([first, second], [3, 1]), [[0.8, 0.2]], rtol=1e-6)


def test_vote_selects_weighted_majority() -> None:
    a, b, c = np.float32([[0.9, 0.1]]), np.float32([[0.4, 0.6]]), np.float32([[0.4, 0.6]])
    np.testing.assert_allclose(vote([a, b, c], [1, 1, 1]), [[1 / 3, 2 / 3]], atol=1e-5)
    np.testing.assert_allclose(vote([a, b, c], [3, 1, 1]), [[0.6, 0.4]], atol=1e-5)


def test_tied_vote_selects_likelier_class() -> None:
    unsure, sure = np.float32([[0.51, 0.49]]), np.float32([[0.1, 0.9]])
    for order in ([unsure, sure], [sure, unsure]):
        result = vote(order, [1, 1])
        assert result.argmax() == 1
        np.testing.assert_allclose(result, [[0.5, 0.5]], atol=1e-5)


@given(st.integers(1, 5), st.integers(2, 6), st.integers(0, 99))
def test_combined_probabilities_sum_to_one(count: int, classes: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    answers = [random.dirichlet(np.ones(classes), size=3).astype(np.float32) for _ in range(count)]
    weights = list(random.uniform(0.1, 5, count))
    for combined in (mean(answers, weights), vote(answers, weights)):
        assert combined.dtype == np.float32
        assert combined.shape == (3, classes)
        np.testing.assert_allclose(combined.sum(axis=1), 1, rtol=1e-5)


def test_cascade_forwards_only_uncertain_items() -> None:
    scores = np.float32([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [np.nan, np.nan]])
    np.testing.assert_array_equal(going_on(scores, 0.8), [1, 3])
    np.testing.assert_array_equal(going_on(scores, 0.0), [3])
    assert len(going_on(scores, 1.0)) == 4


@given(st.integers(1, 500), st.integers(1, 64))
def test_parts_are_few_equal_and_ordered(items: int, most: int) -> None:
    cuts = parts(items, most)
    sizes = [cut.stop - cut.start for cut in cuts]
    assert np.concatenate([np.arange(items)[cut] for cut in cuts]).tolist() == list(range(items))
    assert max(sizes) <= most
    assert max(sizes) - min(sizes) <= 1
    assert len(cuts) == -(-items // most)


def test_shadow_reports_agreement_and_drift() -> None:
    live = np.float32([[0.9, 0.1], [0.4, 0.6]])
    other = np.float32([[0.7, 0.3], [0.6, 0.4]])
    totals = ShadowTotals()
    assert totals.summary()["agreement"] is None
    result = Comparison.of(live, other, "softmax")
    assert (result.items, result.agreeing) == (2, 1)
    totals.add(result, live_s=0.010, shadow_s=0.004)
    summary = totals.summary()
    assert summary["agreement"] == 0.5
    assert summary["mean_drift"] == pytest.approx(0.2)
    assert (summary["live_p50_ms"], summary["shadow_p50_ms"]) == (10, 4)


def test_shadow_compares_independent_labels() -> None:
    live = np.float32([[0.9, 0.8, 0.1], [0.2, 0.1, 0.3]])
    other = np.float32([[0.9, 0.4, 0.1], [0.4, 0.2, 0.3]])  # one label less; no label, like before
    result = Comparison.of(live, other, "sigmoid")
    assert (result.items, result.agreeing) == (2, 1)
    assert result.drift == pytest.approx(0.4 / 3 + 0.3 / 3)

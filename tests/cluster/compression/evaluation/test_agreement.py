"""Agreement of a program with the baseline: the measure, and its lower bound."""

from __future__ import annotations

import numpy as np
import pytest

from cluster.compression.evaluation.agreement import agreement, measure_for

LOGITS = np.eye(10, dtype=np.float32)[np.arange(200) % 10]


@pytest.mark.parametrize(
    ("metric", "activation", "labelled", "widths", "measure"),
    [
        ("accuracy", "softmax", True, (10, 10), "predictions"),
        ("cosine", "none", True, (10, 10), "cosine"),
        ("ranking", "none", False, (10, 20), "ranking"),
        ("python:mine:score", "softmax", True, (10, 10), "predictions"),
        ("python:mine:score", "none", False, (10, 10), "cosine"),
        ("python:mine:score", "none", False, (10, 20), "ranking"),
        ("python:mine:score", "none", False, (1, 1), "numbers"),  # it has no direction
        ("python:mine:score", "sigmoid", False, (1, 1), "labels"),
        ("f1", "sigmoid", True, (10, 10), "labels"),
        ("r2", "none", True, (2, 2), "numbers"),
    ],
)
def test_measure_follows_metric_activation_and_labels(
    metric: str, activation: str, labelled: bool, widths: tuple[int, int], measure: str
) -> None:
    outputs, baseline = (np.ones((5, width), np.float32) for width in widths)
    found = measure_for(metric, activation, labelled, outputs, baseline)  # type: ignore[arg-type]
    assert found == measure


def test_agreement_counts_equal_predictions_only() -> None:
    outputs = LOGITS * 3 + 1  # other values, the same classes
    outputs[:20] = np.roll(outputs[:20], 1, axis=1)
    outputs[20, 5] = np.inf  # a non-finite output agrees with nothing
    measured = agreement("predictions", outputs, LOGITS, 0.95)
    assert measured.mean == pytest.approx(179 / 200)
    assert 0.85 < measured.lower < measured.mean


def test_agreement_bound_needs_samples_where_all_agree() -> None:
    def lower(count: int) -> float:
        return agreement("predictions", LOGITS[:count], LOGITS[:count], 0.95).lower

    assert lower(10) < 0.9 < lower(30) < lower(200) < 1


def test_agreement_bound_holds_with_its_confidence() -> None:
    drawn = np.random.default_rng(0)
    held = 0
    for _ in range(1000):
        outputs = LOGITS.copy()
        changed = drawn.random(len(outputs)) < 0.08
        outputs[changed] = np.roll(outputs[changed], 1, axis=1)
        held += agreement("predictions", outputs, LOGITS, 0.95).lower <= 0.92
    assert 930 <= held <= 985


@pytest.mark.parametrize("measure", ["cosine", "ranking"])
def test_agreement_of_embeddings_is_their_mean_similarity(measure: str) -> None:
    drawn = np.random.default_rng(0)
    baseline = drawn.normal(size=(60, 16)).astype(np.float32)
    near = baseline + drawn.normal(size=baseline.shape).astype(np.float32) * 0.1
    far = drawn.normal(size=baseline.shape).astype(np.float32)
    alike = agreement(measure, near, baseline, 0.95)  # type: ignore[arg-type]
    assert 0.9 < alike.lower < alike.mean < 1
    assert agreement(measure, far, baseline, 0.95).lower < 0.3  # type: ignore[arg-type]


def test_agreement_of_labels_and_numbers_is_with_the_baseline() -> None:
    baseline = np.float32([[3, -1, 2], [-1, -1, -1], [1, -2, -3], [1, 1, -1]])
    outputs = np.float32([[1, -9, 9], [-1, -1, -2], [1, 1, -1], [-1, 1, -1]])
    # F1 of the chosen labels: the same two; none and none; 1 of 1 and 2; 1 of 2 and 1.
    labels = agreement("labels", outputs, baseline, 0.95)
    assert labels.mean == pytest.approx((1 + 1 + 2 / 3 + 2 / 3) / 4)
    numbers = np.arange(101, dtype=np.float32)[:, None]  # variance 850
    alike = agreement("numbers", numbers + np.float32(np.sqrt(8.5)), numbers, 0.95)
    assert alike.mean == pytest.approx(0.99, abs=1e-6)
    assert alike.lower <= alike.mean

"""Agreement of a program with the baseline: the measure, and its lower bound."""

from __future__ import annotations

import numpy as np
import pytest

from cluster.compression.evaluation.agreement import agreement, measure_for

LOGITS = np.eye(10, dtype=np.float32)[np.arange(200) % 10]


@pytest.mark.parametrize(
    ("metric", "labelled", "widths", "measure"),
    [
        ("accuracy", True, (10, 10), "predictions"),
        ("cosine", True, (10, 10), "cosine"),
        ("ranking", False, (10, 20), "ranking"),
        ("python:mine:score", True, (10, 10), "predictions"),
        ("python:mine:score", False, (10, 10), "cosine"),
        ("python:mine:score", False, (10, 20), "ranking"),
        ("python:mine:score", True, (1, 1), "cosine"),  # one output has no largest class
    ],
)
def test_measure_follows_metric_and_labels(
    metric: str, labelled: bool, widths: tuple[int, int], measure: str
) -> None:
    outputs, baseline = (np.ones((5, width), np.float32) for width in widths)
    assert measure_for(metric, labelled, outputs, baseline) == measure


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

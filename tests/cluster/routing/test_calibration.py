"""Smallest threshold that reaches a goal, compared with an exhaustive search."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import ConfigError
from cluster.routing.calibration import CascadeGoal, CascadeMeasurement, measure, smallest_threshold


def random_scores(
    seed: int, samples: int = 200, targets: int = 2
) -> tuple[list[np.ndarray], np.ndarray]:
    """Return random scores of targets that improve, more confident if right, and the labels."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, samples)
    scores = []
    for target in range(targets):
        logits = random.normal(size=(samples, 3)) + (1.0 + target) * np.eye(3)[labels]
        weights = np.exp(1.5 * logits)
        scores.append((weights / weights.sum(axis=1, keepdims=True)).astype(np.float32))
    return scores, labels


def test_measurement_equals_hand_computation() -> None:
    small = np.float32([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [0.8, 0.2]])
    large = np.float32([[0.9, 0.1], [0.1, 0.9], [0.1, 0.9], [0.2, 0.8]])
    result = measure([small, large], np.array([0, 1, 1, 1]), 0.75, [1.0, 4.0])
    assert result.target_share == (1.0, 0.5)  # 0.6 and 0.7 are forwarded
    assert result.accuracy == 0.75  # the last is wrong with confidence
    assert result.agreement == 0.75
    assert result.target_accuracy == (0.5, 1.0)
    assert result.cost == (1 + 0.5 * 4) / 4


def test_stored_measurement_keeps_field_names_of_version_0_2() -> None:
    stored = (
        '{"samples":4,"accuracy":0.75,"agreement":0.75,"target_accuracy":[0.5,1.0],'
        '"asked":[1.0,0.5],"cost":0.75}'
    )
    measurement = CascadeMeasurement.model_validate_json(stored)
    assert measurement.target_share == (1.0, 0.5)
    assert measurement.model_dump_json() == stored


@given(seed=st.integers(0, 200), wanted=st.floats(0.5, 1.0), targets=st.integers(2, 3))
def test_no_smaller_threshold_reaches_goal(seed: int, wanted: float, targets: int) -> None:
    scores, labels = random_scores(seed, 60, targets)
    costs = [1.0] * targets
    for goal, reaches in (
        (CascadeGoal(agreement=wanted), lambda f: f.agreement >= wanted),
        (
            CascadeGoal(max_accuracy_drop=1 - wanted),
            lambda f: f.accuracy >= f.target_accuracy[-1] - (1 - wanted),
        ),
    ):
        result = smallest_threshold(scores, labels, goal, costs)
        assert reaches(measure(scores, labels, result, costs))
        confidences = np.unique([target_scores.max(axis=1) for target_scores in scores[:-1]])
        for smaller in [0.0, *confidences[confidences < np.float32(result)].tolist()]:
            if smaller < result:
                assert not reaches(measure(scores, labels, smaller, costs))


def test_unreachable_goal_is_rejected_with_best_value() -> None:
    # The small target is certain and wrong: no threshold in 0..1 forwards its items.
    small, large = np.float32([[1.0, 0.0]] * 4), np.float32([[0.0, 1.0]] * 4)
    with pytest.raises(ConfigError, match=r"no threshold reaches agreement ≥ 0.9: at 1, agreement"):
        smallest_threshold(
            [small, large], np.array([1, 1, 1, 1]), CascadeGoal(agreement=0.9), [1, 1]
        )

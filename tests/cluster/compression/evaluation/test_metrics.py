"""Metrics: scores per sample, their intervals, and the bound of a drop."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics

from cluster.compression.evaluation import metrics
from cluster.errors import ProgramError, SourceError

LABELS = np.array([0, 1, 2, 1])


def embeddings(count: int, size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, size)).astype(np.float32)


def test_accuracy_scores_the_largest_logit() -> None:
    outputs = np.eye(3, dtype=np.float32)[[0, 1, 0, 2]]
    assert metrics.accuracy(outputs, LABELS, outputs).tolist() == [1, 1, 0, 0]


def test_non_finite_output_scores_zero() -> None:
    outputs = np.eye(3, dtype=np.float32)[LABELS]
    outputs[0, 0], outputs[1, 0] = np.nan, np.inf
    for name in ("accuracy", "cosine", "ranking"):
        scores = metrics.metric(name)(outputs, LABELS, np.eye(3, dtype=np.float32)[LABELS])
        assert scores.dtype == np.float64
        assert np.isfinite(scores).all(), name
        assert scores[:2].tolist() == [0, 0], name
        assert name == "ranking" or scores[2:].min() > 0.99


def test_cosine_compares_directions() -> None:
    baseline = np.array([[3, 0], [1, 1], [0, 2], [0, 0], [0, 0]], np.float32)
    outputs = np.array([[7, 0], [1, 0], [0, -2], [0, 0], [1, 0]], np.float32)
    scores = metrics.cosine(outputs, np.zeros(5, np.int64), baseline)
    assert scores == pytest.approx([1, math.sqrt(0.5), 0, 1, 0])


def test_cosine_rejects_embeddings_of_different_sizes() -> None:
    with pytest.raises(SourceError, match=r"\[4, 3\] and \[4, 2\].*use ranking"):
        metrics.cosine(embeddings(4, 3), LABELS, embeddings(4, 2))


def test_ranking_equals_spearman_correlation_of_similarities() -> None:
    baseline = embeddings(40, 8)
    outputs = baseline + 0.7 * embeddings(40, 8, seed=1)
    outputs[5] = outputs[6]  # ties
    result = metrics.ranking(outputs, np.zeros(40, np.int64), baseline)
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (outputs, baseline)]
    for query in range(40):
        others = [np.delete(rows @ rows[query], query) for rows in unit]
        expected = scipy.stats.spearmanr(*others).statistic
        assert result[query] == pytest.approx(max(0, expected), abs=1e-3)
    assert 0.5 < result.mean() < 0.95


def test_ranking_ignores_scale_rotation_and_size() -> None:
    baseline = embeddings(60, 8)
    rotation, _ = np.linalg.qr(embeddings(8, 8, seed=2))
    turned = np.hstack([3 * baseline @ rotation, np.zeros((60, 4), np.float32)])
    assert metrics.ranking(turned, np.zeros(60), baseline) == pytest.approx(np.ones(60), abs=1e-3)
    unrelated = metrics.ranking(embeddings(60, 8, seed=3), np.zeros(60), baseline)
    assert unrelated.mean() < 0.2


def test_ranking_of_many_samples_uses_first_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "CANDIDATES", 20)
    baseline = embeddings(50, 8)
    outputs = baseline.copy()
    outputs[20:] = baseline[20:][::-1]
    scores = metrics.ranking(outputs, np.zeros(50), baseline)
    assert scores[:20] == pytest.approx(np.ones(20))  # the others are not among the candidates
    assert scores[20:].mean() < 0.5


def test_ranking_requires_three_samples() -> None:
    with pytest.raises(SourceError, match=r"3 samples or more, got 2.*evaluation\.samples"):
        metrics.ranking(embeddings(2, 4), LABELS[:2], embeddings(2, 4))


USER_MODULE = """
import numpy as np
def confidence(outputs, labels, baseline): return np.clip(outputs[:, 0], 0, 1)
def as_list(outputs, labels, baseline): return [0.5] * len(labels)
def one(outputs, labels, baseline): return 0.5
def percent(outputs, labels, baseline): return [50, 0.5, 0.5, 70]
def nothing(outputs, labels, baseline): return np.full(len(labels), np.nan)
def text(outputs, labels, baseline): return ["good"] * len(labels)
def broken(outputs, labels, baseline): raise KeyError("threshold")
"""


@pytest.fixture
def user_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "headrace_user_metrics.py").write_text(USER_MODULE)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("user_module")
def test_user_function_is_metric() -> None:
    outputs = np.array([[0.2], [0.9], [7], [-1]], np.float32)
    scores = metrics.metric("python:headrace_user_metrics:confidence")(outputs, LABELS, outputs)
    assert scores == pytest.approx([0.2, 0.9, 1, 0])
    assert scores.dtype == np.float64
    as_list = metrics.metric("python:headrace_user_metrics:as_list")
    assert as_list(outputs, LABELS, outputs).tolist() == [0.5] * 4


@pytest.mark.usefixtures("user_module")
@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("one", r"returned shape \[\]; expected 4 finite scores of 0\.\.1, one per sample"),
        ("percent", r"returned 50 for sample 0 \(2 like it\); expected 4 finite scores"),
        ("nothing", r"returned nan for sample 0"),
        ("text", r"raised ValueError"),
        ("broken", r"raised KeyError: 'threshold'"),
    ],
)
def test_invalid_scores_of_user_metric_are_rejected(function: str, message: str) -> None:
    name = f"python:headrace_user_metrics:{function}"
    with pytest.raises(SourceError, match=f"{name} {message}"):
        metrics.metric(name)(np.zeros((4, 2), np.float32), LABELS, np.zeros((4, 2), np.float32))


@pytest.mark.parametrize("name", ["recall", "python:no_such_module_here:f"])
def test_unknown_metric_is_rejected(name: str) -> None:
    with pytest.raises(SourceError, match=r"accuracy, f1, .*, cosine, ranking|no module"):
        metrics.metric(name)


@pytest.mark.parametrize(
    ("right", "total", "low", "high"),
    [
        # The bounds b solve |share - b| = z·sqrt(b(1 - b)/n): checked by putting them in.
        (81, 263, 0.2553, 0.3662),
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (1, 2, 0.0945, 0.9055),
    ],
)
def test_interval_of_counts_equals_wilson(right: int, total: int, low: float, high: float) -> None:
    scores = np.array([1.0] * right + [0.0] * (total - right))
    result = metrics.mean_score(scores)
    assert result == metrics.wilson(right, total)
    assert (result.value, result.samples) == (right / total, total)
    assert (result.low, result.high) == (
        pytest.approx(low, abs=1e-4),
        pytest.approx(high, abs=1e-4),
    )
    for bound in (result.low, result.high):
        if bound not in (0, 1):  # clipped to 0..1
            deviation = (bound * (1 - bound) / total) ** 0.5
            assert abs(result.value - bound) == pytest.approx(1.959964 * deviation, rel=1e-5)


@pytest.mark.parametrize("count", [2, 3, 4, 6, 30, 1000])
def test_interval_of_real_scores_equals_student(count: int) -> None:
    scores = np.random.default_rng(0).uniform(0.6, 0.8, count)
    result = metrics.mean_score(scores)
    low, high = np.clip(
        scipy.stats.t.interval(
            0.95, count - 1, scores.mean(), scores.std(ddof=1) / math.sqrt(count)
        ),
        0,
        1,
    )
    assert (result.low, result.high) == (
        pytest.approx(low, rel=1e-6),
        pytest.approx(high, rel=1e-6),
    )
    assert result.low < result.value < result.high


@pytest.mark.parametrize("probability", [0.5, 0.9, 0.975, 0.999])
def test_student_quantile_equals_scipy_for_all_sizes(probability: float) -> None:
    for freedom in (*range(1, 40), 100, 10_000):
        result = metrics._student(probability, freedom)
        assert result == pytest.approx(scipy.stats.t.ppf(probability, freedom), rel=1e-6, abs=1e-9)


def test_interval_of_single_score_is_unbounded() -> None:
    result = metrics.mean_score(np.array([0.7]))
    assert (result.value, result.low, result.high, result.samples) == (0.7, 0, 1, 1)


def test_mean_requires_at_least_one_score() -> None:
    with pytest.raises(ValueError, match="at least one score"):
        metrics.mean_score(np.array([]))


def paired(both: int, lost: int, gained: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    cells = ((1, 1, both), (1, 0, lost), (0, 1, gained), (0, 0, neither))
    before = np.concatenate([np.full(n, float(a)) for a, _, n in cells])
    after = np.concatenate([np.full(n, float(b)) for _, b, n in cells])
    return before, after


def test_drop_bound_of_counts_equals_agresti_min() -> None:
    result = metrics.drop(*paired(794, 86, 150, 570), 0.975)
    # b' = 86.5, c' = 150.5, N' = 1602: (-64 + 1.96·sqrt(237 - 64²/1602))/1602.
    assert result.mean == pytest.approx(-0.04)
    assert result.upper == pytest.approx((-64 + 1.959964 * math.sqrt(237 - 64**2 / 1602)) / 1602)
    assert result.confidence == 0.975


def test_drop_bound_of_equal_answers_shrinks_with_samples() -> None:
    few, many = (metrics.drop(*paired(n, 0, 0, n // 10), 0.95) for n in (100, 10_000))
    assert few.mean == many.mean == 0
    assert 0.01 < few.upper < 0.02
    assert 0 < many.upper < 0.0002


def test_drop_bound_holds_with_its_confidence() -> None:
    random = np.random.default_rng(0)
    right, lost, gained = 0.9, 0.03, 0.02  # the true drop is 0.01
    held = []
    for _ in range(600):
        drawn = random.choice(4, 400, p=[right - lost, lost, gained, 1 - right - gained])
        before, after = np.isin(drawn, (0, 1)), np.isin(drawn, (0, 2))
        bound = metrics.drop(before.astype(float), after.astype(float), 0.95).upper
        held.append(bound >= 0.01)
    assert 0.93 < np.mean(held) < 0.99


def test_paired_bound_is_tighter_than_two_intervals() -> None:
    before, after = paired(850, 20, 15, 115)
    result = metrics.drop(before, after, 0.95)
    apart = metrics.mean_score(before).high - metrics.mean_score(after).low
    assert result.mean == pytest.approx(0.005)
    assert result.mean < result.upper < 0.4 * apart


def test_drop_bound_is_never_below_drop() -> None:
    result = metrics.drop(*paired(5, 4, 0, 0), 0.5)
    assert result.upper == result.mean == pytest.approx(4 / 9)


def test_drop_bound_of_real_scores_equals_student() -> None:
    random = np.random.default_rng(0)
    before = random.uniform(0.8, 1, 50)
    after = before - random.uniform(0, 0.1, 50)
    result = metrics.drop(before, after, 0.9)
    differences = before - after
    expected = scipy.stats.t.ppf(0.9, 49) * differences.std(ddof=1) / math.sqrt(50)
    assert result.upper == pytest.approx(differences.mean() + expected, rel=1e-4)


@pytest.mark.parametrize("name", ["cosine", "ranking"])
def test_drop_bound_of_identical_scores_is_zero(name: str) -> None:
    # Counted like right answers, 50 samples would lower the baseline's bound by 3 points.
    outputs = embeddings(50, 8)
    scores = metrics.metric(name)(outputs, np.zeros(50), outputs)
    assert metrics.drop(scores, scores.copy(), 0.95).upper == pytest.approx(0, abs=1e-9)
    assert metrics.mean_score(scores).low == pytest.approx(1, abs=1e-9)


def test_drop_requires_same_samples() -> None:
    with pytest.raises(ValueError, match="same samples"):
        metrics.drop(np.ones(3), np.ones(4), 0.95)


def test_f1_is_the_mean_over_samples_of_sklearn() -> None:
    drawn = np.random.default_rng(0)
    outputs = drawn.normal(size=(300, 4)).astype(np.float32)
    labels = drawn.random((300, 4)) < 0.4
    assert (~labels.any(axis=1) & ~(outputs > 0).any(axis=1)).any()  # no label, none chosen
    expected = sklearn.metrics.f1_score(labels, outputs > 0, average="samples", zero_division=1)
    scores = metrics.f1(outputs, labels, outputs)
    assert metrics.mean_score(scores).value == pytest.approx(expected)
    outputs[0, 0] = np.inf
    assert metrics.f1(outputs, labels, outputs)[0] == 0


@pytest.mark.parametrize("numbers", [1, 3])
def test_errors_of_numbers_are_those_of_sklearn(numbers: int) -> None:
    drawn = np.random.default_rng(0)
    labels = (drawn.normal(size=(200, numbers)) * [10.0, 1, 5][:numbers]).astype(np.float32)
    for noise in (0.5, 20.0):  # 20: worse than the labels' mean, a negative R²
        outputs = (labels + drawn.normal(size=labels.shape) * noise).astype(np.float32)
        for name, expected in (
            ("r2", sklearn.metrics.r2_score),
            ("mean_absolute_error", sklearn.metrics.mean_absolute_error),
            ("mean_squared_error", sklearn.metrics.mean_squared_error),
        ):
            score = metrics.mean_score(metrics.metric(name)(outputs, labels, outputs))
            assert score.value == pytest.approx(expected(labels, outputs), rel=1e-5), name
            assert score.low < score.value < score.high, name
    outputs[7, 0] = np.nan
    with pytest.raises(ProgramError, match="output for sample 7 is not finite"):
        metrics.r2(outputs, labels, outputs)


def test_drop_of_r2_is_the_added_error_over_the_variance() -> None:
    labels = np.arange(101, dtype=np.float32)[:, None]  # variance 850
    better, worse = labels + 1, labels - 11
    scores = [metrics.r2(outputs, labels, outputs) for outputs in (better, worse)]
    assert metrics.drop(*scores, 0.95).mean == pytest.approx(120 / 850)
    far = metrics.r2(labels + 100, labels, labels)
    drop = metrics.drop(scores[0], far, 0.95)
    assert drop.upper >= drop.mean > 1

"""Scores per sample, and a model's mean score and drop with their confidence.

    outputs, labels, baseline outputs ─ metric(name) ─→ scores [N], whose mean is the metric
    scores ─ mean_score ─→ Score, 95 % interval
    baseline scores, scores ─ drop ─→ Drop, one-sided bound, for the gate

Both models answer the same samples, so a drop is computed sample by sample. Samples that both get
wrong do not widen the bound, which is several times tighter than the distance of two intervals.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np

from cluster.activation import decisions
from cluster.artifact.manifest import Drop, Score
from cluster.errors import ProgramError, SourceError
from cluster.factory import find_factory

Metric = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""Outputs float32 ``[N, D]``, labels (see :class:`cluster.data.Samples`) and the baseline's outputs
for the same samples, float32 ``[N, D']``, to scores float64 ``[N]``, 1 being best. Scores are 0..1,
except those of R², which are at most 1, and errors, which are at least 0, 0 being best."""

CANDIDATES = 2000
"""Maximum number of samples that each query of ``ranking`` ranks."""

_BELOW_ONE = float(np.nextafter(1.0, 0.0))
"""Maximum similarity. It is below 1, because scores of only 0 and 1 count as right answers."""


def accuracy(outputs: np.ndarray, labels: np.ndarray, baseline: np.ndarray) -> np.ndarray:
    """Return 1 if the largest logit is the label's, else 0; 0 also if a logit is not finite."""
    right: np.ndarray = (outputs.argmax(axis=1) == labels) & np.isfinite(outputs).all(axis=1)
    return right.astype(np.float64)


def cosine(outputs: np.ndarray, labels: np.ndarray, baseline: np.ndarray) -> np.ndarray:
    """Return each output's cosine similarity to the baseline's, ``a·b / (|a| |b|)``, at least 0.

    It is 1 for equal directions (or two zero vectors), and 0 if an output is not finite.
    SourceError if the two have different sizes.
    """
    if outputs.shape != baseline.shape:
        raise SourceError(
            f"evaluation.metrics: cosine compares embeddings of one size, got "
            f"{list(outputs.shape)} and {list(baseline.shape)} of the baseline; use ranking, "
            "which compares their neighbourhoods"
        )
    ours, theirs = _unit_rows(outputs), _unit_rows(baseline)
    similarity = np.einsum("nd,nd->n", ours, theirs)
    similarity[~(ours.any(axis=1) | theirs.any(axis=1))] = 1.0
    return _agreement(similarity, outputs)


def ranking(outputs: np.ndarray, labels: np.ndarray, baseline: np.ndarray) -> np.ndarray:
    """Return one rank correlation per sample: how similarly both models rank the others.

    Each sample is a query. The other samples are ordered by their cosine similarity to it, once by
    the outputs and once by the baseline's. The score is the correlation of the two orders,
    Spearman's ρ = cov(r, r') / (σ_r σ_r') over ranks, ties at their mean (Spearman, "The Proof
    and Measurement of Association between Two Things", 1904), negative ones as 0. A search or a
    clustering depends on this order alone, for any size of embedding. Unlike the overlap of the
    nearest ten it has no parameter.

    A query ranks the first :data:`CANDIDATES` samples, so memory is linear in N. SourceError for
    fewer than three samples, which have no order to compare.
    """
    if len(outputs) < 3:
        raise SourceError(
            f"evaluation.metrics: ranking needs 3 samples or more, got {len(outputs)}; raise "
            "evaluation.samples or provide more data"
        )
    ours, theirs = _unit_rows(outputs), _unit_rows(baseline)
    correlation = np.empty(len(outputs))
    for query in range(len(outputs)):
        similar = [(rows[:CANDIDATES] @ rows[query]) for rows in (ours, theirs)]
        if query < CANDIDATES:
            similar = [np.delete(values, query) for values in similar]
        correlation[query] = _correlation(_ranks(similar[0]), _ranks(similar[1]))
    return _agreement(correlation, outputs)


def f1(outputs: np.ndarray, labels: np.ndarray, baseline: np.ndarray) -> np.ndarray:
    """Return each sample's F1 of the labels whose logit is above 0, of labels bool ``[N, D]``.

    2·|chosen and right| / (|chosen| + |right|), 1 if both are empty (the mean is scikit-learn's
    ``f1_score`` with ``average="samples"``), and 0 if a logit is not finite.
    """
    chosen = decisions(outputs, "sigmoid", 0.0)
    sizes = chosen.sum(axis=1) + labels.sum(axis=1)
    common = 2.0 * (chosen & labels).sum(axis=1)
    scores: np.ndarray = np.divide(common, sizes, out=np.ones(len(outputs)), where=sizes > 0)
    return scores * np.isfinite(outputs).all(axis=1)


def r2(outputs: np.ndarray, labels: np.ndarray, baseline: np.ndarray) -> np.ndarray:
    """Return each sample's part of R², ``1 - (output - label)² / variance of the labels``.

    The mean over the samples is R², the coefficient of determination; of several numbers, their
    mean R². A part may be negative without bound. A number that is equal in all labels counts as 1
    if the output equals it, else 0. ProgramError for outputs that are not finite.
    """
    squares = _errors(outputs, labels) ** 2
    wide = labels.astype(np.float64)
    variance = np.broadcast_to(((wide - wide.mean(axis=0)) ** 2).mean(axis=0), squares.shape)
    unexplained = np.divide(squares, variance, out=(squares > 0) * 1.0, where=variance > 0)
    parts: np.ndarray = 1 - unexplained.mean(axis=1)
    return parts


def absolute_error(outputs: np.ndarray, labels: np.ndarray, baseline: np.ndarray) -> np.ndarray:
    """Return each sample's ``|output - label|``, of several numbers the mean."""
    errors: np.ndarray = np.abs(_errors(outputs, labels)).mean(axis=1)
    return errors


def squared_error(outputs: np.ndarray, labels: np.ndarray, baseline: np.ndarray) -> np.ndarray:
    """Return each sample's ``(output - label)²``, of several numbers the mean."""
    squares: np.ndarray = (_errors(outputs, labels) ** 2).mean(axis=1)
    return squares


METRICS: dict[str, Metric] = {
    "accuracy": accuracy,
    "f1": f1,
    "r2": r2,
    "mean_absolute_error": absolute_error,
    "mean_squared_error": squared_error,
    "cosine": cosine,
    "ranking": ranking,
}


def metric(name: str) -> Metric:
    """Return the metric of that name: one of :data:`METRICS`, or ``python:module:function``.

    A user's function takes the same three arrays as a :data:`Metric`. SourceError if it cannot be
    imported. A call raises SourceError if the function raises or does not return one finite score
    of 0..1 per sample.
    """
    if name in METRICS:
        return METRICS[name]
    kind, _, path = name.partition(":")
    if kind != "python":
        raise SourceError(
            f"evaluation.metrics: {name!r} is not one of {', '.join(METRICS)}, "
            "python:module:function"
        )
    return _checked(name, find_factory(path))


def _checked(name: str, function: Callable[..., object]) -> Metric:
    def scores(outputs: np.ndarray, labels: np.ndarray, baseline: np.ndarray) -> np.ndarray:
        try:
            result = np.asarray(function(outputs, labels, baseline), np.float64)
        # User code can raise anything.
        except Exception as error:
            raise SourceError(f"{name} raised {type(error).__name__}: {error}") from error
        expected = f"expected {len(outputs)} finite scores of 0..1, one per sample"
        if result.shape != (len(outputs),):
            raise SourceError(f"{name} returned shape {list(result.shape)}; {expected}")
        wrong = np.flatnonzero(~((result >= 0) & (result <= 1)))
        if len(wrong):
            raise SourceError(
                f"{name} returned {result[wrong[0]]:g} for sample {wrong[0]} "
                f"({len(wrong)} like it); {expected}"
            )
        return result

    return scores


def mean_score(scores: np.ndarray) -> Score:
    """Return the mean of scores ``[N]``, with its 95 % interval.

    Counts of right answers (all scores 0 or 1) have Wilson's interval. Other scores have Student's:
    mean ± t(0.975, N-1) · s/√N, clipped to 0 and 1 unless scores are outside.
    """
    total = _total(scores)
    if _counts(scores):
        return wilson(int(scores.sum()), total)
    mean = float(scores.mean())
    half = _student(0.975, total - 1) * _standard_error(scores)
    least, most = min(0.0, float(scores.min())), max(1.0, float(scores.max()))
    return Score(
        value=mean, low=max(least, mean - half), high=min(most, mean + half), samples=total
    )


def drop(baseline_scores: np.ndarray, scores: np.ndarray, confidence: float) -> Drop:
    """Return the drop from ``baseline_scores`` to ``scores``, both ``[N]`` of the same samples.

    ``upper`` is a one-sided bound: with probability ``confidence`` (0.5..1) the true drop is
    not larger. For right answers, with b lost and c gained of N, half an answer is added to each
    cell of the 2×2 table: b' = b + ½, c' = c + ½, N' = N + 2, and
    upper = (b' - c')/N' + z · √(b' + c' - (b' - c')²/N')/N' (Agresti and Min, "Simple improved
    confidence intervals for comparing matched proportions", 2005). It is above 0 even if no answer
    changed, because other samples may. For other scores it is Student's:
    mean + t(confidence, N-1) · s/√N of the differences.
    """
    total = _total(scores)
    if baseline_scores.shape != scores.shape:
        raise ValueError(f"{baseline_scores.shape} and {scores.shape} are not the same samples")
    differences = baseline_scores - scores
    mean = float(differences.mean())
    if _counts(scores) and _counts(baseline_scores):
        lost, gained = (int((differences * sign > 0).sum()) + 0.5 for sign in (1, -1))
        adjusted = total + 2
        net = lost - gained
        deviation = math.sqrt(lost + gained - net**2 / adjusted)
        upper = (net + NormalDist().inv_cdf(confidence) * deviation) / adjusted
    else:
        upper = mean + _student(confidence, total - 1) * _standard_error(differences)
    shares = min(scores.min(), baseline_scores.min()) >= 0
    # The adjustment moves towards 0, below the drop itself for a confidence near 0.5.
    upper = max(mean, min(1.0, upper) if shares else upper)
    return Drop(mean=mean, upper=upper, confidence=confidence)


def wilson(right: int, total: int, probability: float = 0.975) -> Score:
    """Return the share ``right / total`` with Wilson's score interval, which holds near 0 and 1.

    Each end is a one-sided bound of ``probability``; 0.975 makes the two a 95 % interval.
    centre = (p + z²/2n) / (1 + z²/n);  half = z/(1 + z²/n) · √(p(1-p)/n + z²/4n²)
    (Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", 1927).
    """
    if total == 0:
        raise ValueError("a share needs at least one sample")
    z = NormalDist().inv_cdf(probability)
    share = right / total
    scale = 1 + z**2 / total
    centre = (share + z**2 / (2 * total)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / total + z**2 / (4 * total**2))
    # If all or none are right, an end is exactly 1 or 0 in theory, but rounded in practice.
    low = 0.0 if right == 0 else max(0.0, centre - half)
    high = 1.0 if right == total else min(1.0, centre + half)
    return Score(value=share, low=low, high=high, samples=total)


def _total(scores: np.ndarray) -> int:
    if not len(scores):
        raise ValueError("a mean needs at least one score")
    return len(scores)


def _counts(scores: np.ndarray) -> bool:
    return bool(np.isin(scores, (0.0, 1.0)).all())


def _standard_error(values: np.ndarray) -> float:
    """Return s/√N; 1, the whole range, for a single value, whose spread is unknown."""
    return float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else 1.0


def _student(probability: float, freedom: int) -> float:
    """Return Student's t quantile of ``probability``, at least 0.5; 0 degrees count as 1.

    Up to 30 degrees of freedom its distribution function is inverted. Above, the normal quantile
    is expanded in 1/freedom (Abramowitz and Stegun, "Handbook of Mathematical Functions", 1964,
    26.7.5), which is exact to 1e-6 for probabilities up to 0.999.
    """
    n = max(1, freedom)
    if n <= 30:
        return _small_student(probability, n)
    z = NormalDist().inv_cdf(probability)
    return (
        z
        + (z**3 + z) / (4 * n)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * n**3)
        + (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / (92160 * n**4)
    )


def _small_student(probability: float, freedom: int) -> float:
    """Return the quantile by bisection over θ = arctan(t/√freedom)."""
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        if (1 + _within(middle, freedom)) / 2 < probability:
            low = middle
        else:
            high = middle
    return math.sqrt(freedom) * math.tan(low)


def _within(angle: float, freedom: int) -> float:
    """Return the probability that |t| is at most √freedom · tan(angle).

    Finite series of Abramowitz and Stegun, 26.7.3 for odd degrees of freedom, 26.7.4 for even ones.
    """
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term, total = (cosine if odd else 1.0), 0.0
    for power in range(odd, freedom - 1, 2):
        total += term
        term *= cosine**2 * (power + 1) / (power + 2)
    return (angle + sine * total) * 2 / math.pi if odd else sine * total


def _errors(outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    if not np.isfinite(outputs).all():
        first = int(np.flatnonzero(~np.isfinite(outputs).all(axis=1))[0])
        raise ProgramError(f"the output for sample {first} is not finite, which has no error")
    errors: np.ndarray = outputs.astype(np.float64) - labels
    return errors


def _agreement(similarity: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    finite = np.isfinite(outputs).all(axis=1)
    scores: np.ndarray = np.where(finite, similarity.clip(0.0, _BELOW_ONE), 0.0)
    return scores


def _unit_rows(rows: np.ndarray) -> np.ndarray:
    """Return rows scaled to length 1, float64; zero and non-finite rows become zero."""
    wide = rows.astype(np.float64)
    wide[~np.isfinite(wide).all(axis=1)] = 0.0
    length = np.linalg.norm(wide, axis=1, keepdims=True)
    unit: np.ndarray = np.divide(wide, length, out=np.zeros_like(wide), where=length > 0)
    return unit


def _ranks(values: np.ndarray) -> np.ndarray:
    """Return the rank of each value, from 1; equal values share their mean rank."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    ranks: np.ndarray = (np.cumsum(count) - (count - 1) / 2)[place]
    return ranks


def _correlation(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Return Pearson's correlation; for constant sides 1 if both are constant, else 0."""
    ours, theirs = ours - ours.mean(), theirs - theirs.mean()
    spread = math.sqrt(float(ours @ ours) * float(theirs @ theirs))
    if spread == 0:
        return float(not ours.any() and not theirs.any())
    return float(ours @ theirs) / spread

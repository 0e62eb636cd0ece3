"""Random selection of samples that preserves the shares of classes.

stratified_sample(labels, count, rng)          indices
without_share(samples, share, seed)     (remaining samples, validation samples)
"""

from __future__ import annotations

import numpy as np

from cluster.data.samples import Samples
from cluster.errors import SourceError


def stratified_sample(labels: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return indices of ``count`` samples, int64 ``[count]``, in random order.

    Each class gets its share of ``count``, rounded down; the remainder is distributed to the
    classes with the largest fractions. ``labels`` is int64 ``[N]`` with ``count`` ≤ N. Rows of
    independent labels or numbers have no classes, and are drawn alike.
    """
    if labels.ndim > 1:
        labels = np.zeros(len(labels), np.int64)
    members_of = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    exact = np.array([len(members) * count / len(labels) for members in members_of])
    counts = np.floor(exact).astype(np.int64)
    largest_first = np.argsort(counts - exact, kind="stable")
    counts[largest_first[: count - counts.sum()]] += 1
    selections = [
        rng.permutation(members)[:size] for members, size in zip(members_of, counts, strict=True)
    ]
    return rng.permutation(np.concatenate(selections))


VALIDATION_MAX = 2000


def without_share(samples: Samples, share: float, seed: int) -> tuple[Samples, Samples]:
    """Split off a ``share`` of the samples, at most VALIDATION_MAX; return (remaining, split off).

    Equal samples, share and seed give equal parts, so that all processes of a job agree. Raises
    SourceError if there is only one sample.
    """
    count = min(max(round(len(samples) * share), 1), VALIDATION_MAX, len(samples) - 1)
    if count < 1:
        raise SourceError(
            f"{samples.name(0)} is the only sample to split validation samples from; "
            "expected at least two"
        )
    held_out = stratified_sample(samples.labels, count, np.random.default_rng(seed))
    remaining = np.setdiff1d(np.arange(len(samples)), held_out)
    return samples.subset(remaining), samples.subset(held_out)

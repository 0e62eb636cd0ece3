"""Choosing samples at random, with the share that each class has.

stratified(labels, count, rng)          indices
without_share(samples, share, seed)     (what is left, validation samples)
"""

from __future__ import annotations

import numpy as np

from cluster.data.samples import Samples
from cluster.errors import SourceError


def stratified(labels: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Indices of ``count`` of the samples, int64 ``[count]``, in random order.

    Each class gets its share of ``count``, rounded down; what is left goes one by one to the
    classes with the largest remainders. ``labels`` is int64 ``[N]`` with ``count`` ≤ N.
    """
    members_of = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    exact = np.array([len(members) * count / len(labels) for members in members_of])
    taken = np.floor(exact).astype(np.int64)
    largest_first = np.argsort(taken - exact, kind="stable")
    taken[largest_first[: count - taken.sum()]] += 1
    chosen = [
        rng.permutation(members)[:take] for members, take in zip(members_of, taken, strict=True)
    ]
    return rng.permutation(np.concatenate(chosen))


VALIDATION_MAX = 2000


def without_share(samples: Samples, share: float, seed: int) -> tuple[Samples, Samples]:
    """``samples`` without a ``share`` of them, and that share, at most VALIDATION_MAX.

    The same samples, share and seed give the same parts: every process of a job agrees on them.
    SourceError if there is only one sample.
    """
    count = min(max(round(len(samples) * share), 1), VALIDATION_MAX, len(samples) - 1)
    if count < 1:
        raise SourceError(
            f"{samples.name(0)} is the only sample that validation samples can be taken from; "
            "give at least two"
        )
    held_out = stratified(samples.labels, count, np.random.default_rng(seed))
    rest = np.setdiff1d(np.arange(len(samples)), held_out)
    return samples.subset(rest), samples.subset(held_out)

"""Choosing samples at random, with the share that each class has."""

from __future__ import annotations

import numpy as np


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

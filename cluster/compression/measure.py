"""Accuracy with its uncertainty, and latency of two models taken in turn."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cluster.artifact.manifest import Latency
from cluster.data import PreparedSamples
from cluster.progress import Print

Run = Callable[[list[np.ndarray]], np.ndarray]
"""Input arrays ``[batch, ...]`` to logits ``[batch, classes]``."""

ACCURACY_BATCH = 32
_Z95 = 1.959963984540054


@dataclass(frozen=True)
class Accuracy:
    """Share of right answers, with the 95 % confidence interval."""

    share: float
    low: float
    high: float
    samples: int


def accuracy(run: Run, samples: PreparedSamples, count: int | None) -> Accuracy:
    """Run the first ``count`` samples (None: all) and compare the largest logit to the label."""
    total = len(samples) if count is None else min(count, len(samples))
    right = 0
    for start in range(0, total, ACCURACY_BATCH):
        arrays, labels = samples.batch(range(start, min(start + ACCURACY_BATCH, total)))
        right += int((run(arrays).argmax(axis=1) == labels).sum())
    return wilson(right, total)


def wilson(right: int, total: int) -> Accuracy:
    """Wilson's score interval at 95 % (Wilson 1927): it holds near 0 and 1 too.

    centre = (p + z²/2n) / (1 + z²/n);  half = z/(1 + z²/n) · sqrt(p(1-p)/n + z²/4n²)
    """
    if total == 0:
        raise ValueError("no samples to take an accuracy from")
    share = right / total
    scale = 1 + _Z95**2 / total
    centre = (share + _Z95**2 / (2 * total)) / scale
    half = _Z95 / scale * math.sqrt(share * (1 - share) / total + _Z95**2 / (4 * total**2))
    return Accuracy(share, max(0.0, centre - half), min(1.0, centre + half), total)


def latencies(
    runs: Mapping[str, Run], samples: PreparedSamples, batches: Sequence[int], repeats: int,
    out: Print,
) -> dict[str, tuple[Latency, ...]]:  # fmt: skip
    """Time every run at every batch size, in turn, so that a busy machine slows all alike."""
    found: dict[str, list[Latency]] = {name: [] for name in runs}
    for batch in batches:
        arrays, _ = samples.batch([i % len(samples) for i in range(batch)])
        times: dict[str, list[float]] = {name: [] for name in runs}
        for repeat in range(-2, repeats):  # two runs each to warm up
            for name, run in runs.items():
                started = time.perf_counter()
                run(arrays)
                if repeat >= 0:
                    times[name].append((time.perf_counter() - started) * 1e3)
        for name, taken in times.items():
            p50, p99 = np.percentile(taken, [50, 99])
            found[name].append(Latency(batch=batch, p50_ms=float(p50), p99_ms=float(p99)))
        out(f"measure  latency at batch {batch}")
    return {name: tuple(entries) for name, entries in found.items()}

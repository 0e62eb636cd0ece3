"""Outputs of a model on samples, and the latency of several models, measured in turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from cluster.artifact.entries import Latency
from cluster.data import PreparedSamples
from cluster.progress import Bar, Print

Run = Callable[[list[np.ndarray]], np.ndarray]
"""Input arrays ``[batch, ...]`` to outputs ``[batch, D]``: logits, or an embedding."""

PROGRESS_INTERVAL_S = 60.0
"""Seconds between two lines of progress of a long measurement."""

_BATCH = 32
_WARM_UP_RUNS = 2


def outputs_of(
    run: Run, samples: PreparedSamples, count: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return outputs float32 ``[N, D]`` and labels int64 ``[N]`` of the first ``count`` samples.

    ``count`` None: all samples. Samples whose files cannot be read are left out.
    """
    total = len(samples) if count is None else min(count, len(samples))
    outputs, labels = [], []
    for start in range(0, total, _BATCH):
        indices = range(start, min(start + _BATCH, total))
        arrays, right = samples.batch(indices)
        answers = run(arrays).astype(np.float32, copy=False)
        readable = samples.readable(indices)
        outputs.append(answers[readable])
        labels.append(right[readable])
    if not outputs:
        raise ValueError("the model needs at least one sample")
    return np.concatenate(outputs), np.concatenate(labels)


def latencies(
    runs: Mapping[str, Run],
    samples: PreparedSamples,
    batches: Sequence[int],
    repeats: int,
    out: Print,
) -> dict[str, tuple[Latency, ...]]:
    """Time every run at every batch size, in turn, so that a busy machine slows all alike."""
    measured: dict[str, list[Latency]] = {name: [] for name in runs}
    for batch in batches:
        arrays, _ = samples.batch([i % len(samples) for i in range(batch)])
        times: dict[str, list[float]] = {name: [] for name in runs}
        bar = Bar(f"measure  latency at batch {batch}", repeats, out, PROGRESS_INTERVAL_S)
        for repeat in range(-_WARM_UP_RUNS, repeats):
            for name, run in runs.items():
                started = time.perf_counter()
                run(arrays)
                if repeat >= 0:
                    times[name].append((time.perf_counter() - started) * 1e3)
            bar.update(repeat + 1)
        for name, times_ms in times.items():
            p50, p99 = np.percentile(times_ms, [50, 99])
            measured[name].append(Latency(batch=batch, p50_ms=float(p50), p99_ms=float(p99)))
    return {name: tuple(entries) for name, entries in measured.items()}

"""Whether a compiled program computes what was compiled: the same samples through both.

    job, before compiling:  record(outputs, samples) → reference.npz: inputs and expected outputs
    evaluation process:     check(program, file)     → CompressionError if they are another model's

Compilers have been seen to build programs that answer wrong numbers without a word, and a gate
without an accuracy limit would let them through.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from cluster.compression.evaluation.measure import Run
from cluster.errors import CompressionError

SAMPLES = 16

MAX_DIFFERENCE = 0.25
"""Of :func:`difference`. Rounding to int8 or bfloat16 in another order reaches a few hundredths,
a wrong program is beyond 1."""

MAX_FLOAT_DIFFERENCE = 1e-3
"""The same where everything is float32, and only the order of sums may differ."""


def record(outputs: np.ndarray, inputs: list[np.ndarray], file: Path) -> None:
    """Keep the model's ``outputs`` ``[batch, D]`` for ``inputs`` ``[batch, ...]``."""
    arrays: dict[str, Any] = {f"input{i}": array for i, array in enumerate(inputs)}
    with file.open("wb") as stream:
        np.savez(stream, outputs=outputs, **arrays)


def check(run: Run, file: Path, batch: int | None = None, limit: float = MAX_DIFFERENCE) -> float:
    """The program's difference from the record; CompressionError above ``limit``.

    ``batch``: run the samples in batches of exactly this size, filled up from the beginning;
    None runs all at once.
    """
    with np.load(file) as kept:
        expected = kept["outputs"]
        inputs = [kept[f"input{i}"] for i in range(len(kept.files) - 1)]
    size = batch or len(expected)
    chosen = np.arange(-(-len(expected) // size) * size) % len(expected)
    found = difference(
        np.concatenate(
            [run([array[part] for array in inputs]) for part in chosen.reshape(-1, size)]
        ),
        expected[chosen],
    )
    if not found <= limit:  # NaN is not
        raise CompressionError(
            f"the compiled program does not compute the model: its outputs differ by {found:.4g} "
            f"of their spread, at most {limit:g} is rounding. Its compiler is wrong about "
            "this model, or quantizes it far worse than the `quantize` step did; try another kind "
            "of program, or another scheme"
        )
    return found


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    """``‖found - expected‖ / ‖expected - mean over each row‖``, Frobenius norms, in float64."""
    expected = expected.astype(np.float64)
    spread = np.linalg.norm(expected - expected.mean(axis=1, keepdims=True))
    return float(np.linalg.norm(found - expected) / max(spread, np.finfo(np.float64).tiny))

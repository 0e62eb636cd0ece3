"""Check that a compiled program computes its model: both get the same samples.

    job, before compiling:  record(outputs, samples) → reference.npz: inputs and expected outputs
    evaluation process:     check(program, file)     → CompressionError if the outputs differ

Compilers sometimes build programs that silently compute wrong numbers. A gate without an accuracy
limit would accept them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cluster import independence
from cluster.compression.evaluation.measure import Run
from cluster.errors import CompressionError

SAMPLES = 16

MAX_DIFFERENCE = 0.25
"""Maximum :func:`difference`. Rounding to int8 or bfloat16 in another order reaches a few
hundredths, a wrong program more than 1."""

MAX_FLOAT_DIFFERENCE = 1e-3
"""Maximum difference if everything is float32, and only the order of sums may differ."""


def record(outputs: np.ndarray, inputs: list[np.ndarray], file: Path) -> None:
    """Write the model's ``outputs`` ``[batch, D]`` for ``inputs`` ``[batch, ...]`` to ``file``."""
    arrays: dict[str, Any] = {f"input{i}": array for i, array in enumerate(inputs)}
    with file.open("wb") as stream:
        np.savez(stream, outputs=outputs, **arrays)


def check(run: Run, file: Path, batch: int | None = None, limit: float = MAX_DIFFERENCE) -> float:
    """Return the program's difference from the record; CompressionError above ``limit``.

    ``batch``: exact batch size; the last batch is filled with the first samples. None runs all
    samples at once.
    """
    with np.load(file) as arrays:
        expected = arrays["outputs"]
        inputs = [arrays[f"input{i}"] for i in range(len(arrays.files) - 1)]
    size = batch or len(expected)
    chosen = np.arange(-(-len(expected) // size) * size) % len(expected)
    distance = difference(
        np.concatenate(
            [run([array[part] for array in inputs]) for part in chosen.reshape(-1, size)]
        ),
        expected[chosen],
    )
    if not distance <= limit:  # also refuses NaN
        raise CompressionError(
            "the compiled program does not compute the model: its outputs differ by "
            f"{distance:.4g} of their spread, at most {limit:g} is rounding. Its compiler "
            "miscompiles this model, or quantizes it far worse than the `quantize` step; try "
            "another kind of program, or another scheme"
        )
    return distance


def check_items(
    run: independence.Run, file: Path, mates: Sequence[str], largest: int, *, rounded: bool
) -> None:
    """Check that the program computes each item by itself; CompressionError if not.

    ``mates``: names of the items beside which the record's inputs are put. ``largest``: largest
    batch. ``rounded``: the program may round otherwise at another batch size, as quantized ones do.
    """
    with np.load(file) as arrays:
        samples = [arrays[f"input{i}"] for i in range(len(arrays.files) - 1)]
    inputs = independence.Inputs.of(samples).beside(mates)
    across = None if rounded else independence.ROUNDING
    dependence = independence.find(run, inputs, largest, across=across)
    if dependence is not None:
        raise CompressionError(
            f"the compiled program does not compute each item by itself: {dependence.reason}; the "
            "model does, so try another kind of program, or another scheme"
        )


def difference(outputs: np.ndarray, expected: np.ndarray) -> float:
    """Return ``‖outputs - expected‖ / ‖expected - row means‖``, Frobenius norms, in float64.

    A single output has the mean over the samples in place of the row's, which would be itself.
    """
    expected = expected.astype(np.float64)
    axis = 1 if expected.shape[1] > 1 else 0
    spread = np.linalg.norm(expected - expected.mean(axis=axis, keepdims=True))
    return float(np.linalg.norm(outputs - expected) / max(spread, np.finfo(np.float64).tiny))

"""Whether a compiled program computes what was compiled: the same samples through both.

    job, before compiling:  record(work, samples)  → reference.npz: inputs and expected logits
    evaluation process:     check(program, file)   → CompressionError if they are another model's

Compilers have been seen to build programs that answer wrong numbers without a word, and a gate
without an accuracy limit would let them through.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from cluster.compression.measure import Run
from cluster.errors import CompressionError

SAMPLES = 16

MAX_DIFFERENCE = 0.25
"""Of :func:`difference`. Rounding to int8 or bfloat16 in another order reaches a few hundredths,
a wrong program is beyond 1."""


def record(logits: np.ndarray, inputs: list[np.ndarray], file: Path) -> None:
    """Keep the model's ``logits`` ``[batch, classes]`` for ``inputs`` ``[batch, ...]``."""
    arrays: dict[str, Any] = {f"input{i}": array for i, array in enumerate(inputs)}
    with file.open("wb") as stream:
        np.savez(stream, logits=logits, **arrays)


def check(run: Run, file: Path) -> float:
    """The program's difference from the record; CompressionError above MAX_DIFFERENCE."""
    with np.load(file) as kept:
        logits = kept["logits"]
        inputs = [kept[f"input{i}"] for i in range(len(kept.files) - 1)]
    found = difference(run(inputs), logits)
    if not found <= MAX_DIFFERENCE:  # NaN is not
        raise CompressionError(
            f"the compiled program does not compute the model: its logits differ by {found:.2f} "
            f"of their spread, at most {MAX_DIFFERENCE} is rounding. Report this model to the "
            "compiler's authors; another `quantize` scheme, or none, may compile rightly"
        )
    return found


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    """``‖found - expected‖ / ‖expected - mean over classes‖``, Frobenius norms, in float64."""
    expected = expected.astype(np.float64)
    spread = np.linalg.norm(expected - expected.mean(axis=1, keepdims=True))
    return float(np.linalg.norm(found - expected) / max(spread, np.finfo(np.float64).tiny))

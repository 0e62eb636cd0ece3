"""Check that a compiled program computes its model: both get the same samples.

    job, before compiling:  record(outputs, probes) → KEY.expected.npz: inputs, expected outputs
    evaluation process:     check(program, file)    → CompressionError if the outputs differ

Compilers sometimes build programs that silently compute wrong numbers. Each program is compared
with the module that it was made from: a compiler that quantizes the float model by itself does not
round like another one.

Rounding is not a fault. Its cost in accuracy is the gate's to judge, by the recipe's limits; the
limits here only tell a program that rounds from one that computes something else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cluster import independence
from cluster.compression.probes import (
    MAX_FLOAT_DIFFERENCE,
    MAX_HALF_DIFFERENCE,
    Probes,
    Run,
    difference,
    in_batches,
)
from cluster.errors import CompressionError

MAX_ROUNDING = 0.25
"""Maximum difference of two programs that round the same tensors alike, but in another order, and
of a program in half precision. It is a few hundredths; a wrong program reaches more than 1."""

MAX_QUANTIZED = 1.0
"""Maximum difference of a quantized program. Beyond it, the mean of the expected outputs would be
a better answer than the program's."""

_LIMIT = "limit"


@dataclass(frozen=True)
class Outputs:
    """Files of a program's outputs for the same inputs."""

    expected: Path
    """Outputs of the module that the program was made from."""

    computed: Path
    """The program's own, once it is measured and works."""


def limit_of(scheme: str | None, target: str) -> float:
    """Return the maximum difference of a program from the module that it was made from.

    ``scheme``: of the quantize step; None for float32. A GPU's convolutions and matrix products
    of float32 may round their factors to 10 bits (TF32).
    """
    if scheme is None:
        return MAX_FLOAT_DIFFERENCE if target.startswith("cpu-") else MAX_HALF_DIFFERENCE
    return MAX_ROUNDING if scheme in ("bf16", "fp16") else MAX_QUANTIZED


def record(outputs: Sequence[np.ndarray], probes: Probes, limit: float, file: Path) -> None:
    """Write a model's outputs for the probes to ``file``.

    Noise is left out where the program may round: it is outside the calibrated ranges.
    """
    rows = len(probes) if limit <= MAX_HALF_DIFFERENCE else probes.samples
    inputs = [array[:rows] for array in probes.inputs]
    write([output[:rows] for output in outputs], inputs, limit, file)


def write(
    outputs: Sequence[np.ndarray], inputs: Sequence[np.ndarray], limit: float, file: Path
) -> None:
    """Write expected outputs ``[items, ...]`` for ``inputs`` and their limit to ``file``."""
    arrays: dict[str, Any] = {f"input{i}": array for i, array in enumerate(inputs)}
    arrays |= {f"output{i}": array for i, array in enumerate(outputs)}
    arrays[_LIMIT] = np.float64(limit)
    with file.open("wb") as stream:
        np.savez(stream, **arrays)


def inputs_of(file: Path) -> list[np.ndarray]:
    """Return the recorded inputs."""
    with np.load(file) as arrays:
        return _named("input", arrays)


def check(run: Run, file: Path, batch: int | None = None) -> float:
    """Return the program's difference from the record; CompressionError above the limit.

    ``batch``: exact batch size; the last batch is filled with the first samples. None runs all
    samples at once.
    """
    distance, _ = _compared(run, file, batch)
    return distance


def check_items(
    run: independence.Run, file: Path, mates: Sequence[str], largest: int, *, rounded: bool
) -> None:
    """Check that the program computes each item by itself; CompressionError if not.

    ``mates``: names of the items beside which the record's inputs are put. ``largest``: largest
    batch. ``rounded``: the program may round otherwise at another batch size, as quantized ones do.
    """
    inputs = independence.Inputs.of(inputs_of(file)).beside(mates)
    across = None if rounded else independence.ROUNDING
    dependence = independence.find(run, inputs, largest, across=across)
    if dependence is not None:
        raise CompressionError(
            f"the compiled program does not compute each item by itself: {dependence.reason}; the "
            "model does, so try another kind of program, or another scheme"
        )


def check_and_record(run: Run, file: Path, own: Path) -> float:
    """Check the program as :func:`check` does, and write its own outputs to the file ``own``.

    Other forms of the same program are compared with these: they round the same tensors.
    """
    distance, outputs = _compared(run, file, None)
    with np.load(file) as arrays:
        write(outputs, _named("input", arrays), min(float(arrays[_LIMIT]), MAX_ROUNDING), own)
    return distance


def apart(run: Run, computed: Path) -> float:
    """Return the difference of the program's outputs for single items from those in one batch.

    ``computed``: file of the outputs in one batch.
    """
    with np.load(computed) as arrays:
        inputs, together = _named("input", arrays), _named("output", arrays)
    return difference(in_batches(run, inputs, 1), together, rounded=True)


def _compared(run: Run, file: Path, batch: int | None) -> tuple[float, list[np.ndarray]]:
    with np.load(file) as arrays:
        inputs, expected = _named("input", arrays), _named("output", arrays)
        limit = float(arrays[_LIMIT])
    outputs = in_batches(run, inputs, batch)
    distance = difference(outputs, expected, rounded=limit > MAX_HALF_DIFFERENCE)
    if distance <= limit:  # False for NaN
        return distance, outputs
    cause = (
        "that is more than rounding, so its compiler miscompiles this model"
        if limit < MAX_QUANTIZED
        else "their mean would be nearer, so its compiler miscompiles or misquantizes this model"
    )
    raise CompressionError(
        "the compiled program does not compute the model: its outputs differ from those of the "
        f"model that it was made from by {distance:.4g} of their spread, expected {limit:g} at "
        f"most; {cause}. Try another kind in programs.kinds, or another scheme"
    )


def _named(prefix: str, arrays: Any) -> list[np.ndarray]:
    count = sum(name.startswith(prefix) for name in arrays.files)
    return [arrays[f"{prefix}{i}"] for i in range(count)]

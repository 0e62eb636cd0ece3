"""Inputs on which two models are compared, and the difference of their outputs. Without PyTorch.

training samples ─→ Probes: samples and noise ─┬→ model         → expected ┐
                                               └→ rewritten one → outputs  ┴→ difference
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cluster.data import PreparedSamples

SAMPLES = 16
"""Maximum number of training samples among the probes."""

NOISE = 8
"""Number of probes of noise: a fault may be invisible where samples are alike."""

MAX_FLOAT_DIFFERENCE = 1e-3
"""Maximum :func:`difference` if everything is float32, and only the order of sums may differ."""

MAX_HALF_DIFFERENCE = 0.05
"""The same where both models compute in half precision, and round in another order."""

_RESOLUTION = 1e-2
"""Smallest spread, as a share of the outputs: float32 has no more digits for a smaller one. A model
that rounds has none for a spread smaller than its outputs."""

_SINGLE_RESOLUTION = 1e-3
"""The same of a model with one output, whose level may be far from 0."""

Run = Callable[[list[np.ndarray]], np.ndarray | Sequence[np.ndarray]]
"""Input arrays ``[batch, ...]`` to one output ``[batch, ...]`` or several."""


@dataclass(frozen=True)
class Probes:
    """Inputs for comparisons: training samples, and noise in their range."""

    inputs: tuple[np.ndarray, ...]
    """One array ``[count, ...]`` per input of the model; the samples come first."""

    samples: int
    """Number of samples; the other items are noise."""

    batch: int | None = None
    """Number of items that the model takes at once; None: any."""

    @staticmethod
    def of(train: PreparedSamples, seed: int, batch: int | None = None) -> Probes:
        """Return the first training samples, and as much noise as there are samples at most."""
        count = min(SAMPLES, len(train))
        arrays, _ = train.batch(range(count))
        generator = np.random.default_rng(seed)
        inputs = tuple(
            np.concatenate([array, _noise(array, min(NOISE, count), generator)]) for array in arrays
        )
        return Probes(inputs, count, batch)

    def few(self) -> Probes:
        """Return up to two samples and two items of noise, for a comparison of every layer."""
        count = min(self.samples, 2)
        rows = [*range(count), *range(self.samples, len(self))[:2]]
        return replace(self, inputs=tuple(array[rows] for array in self.inputs), samples=count)

    def without_noise(self) -> Probes:
        """Return the samples alone."""
        return replace(self, inputs=tuple(array[: self.samples] for array in self.inputs))

    def __len__(self) -> int:
        return len(self.inputs[0])

    @property
    def described(self) -> str:
        """Number and kind of the probes, in words."""
        return f"{self.samples} training samples and {len(self) - self.samples} of noise"


def _noise(array: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    """Return normal noise of the array's mean and deviation; of integers, any in their range.

    Each position of an integer input has its own range: an index stays within its table.
    """
    shape = (count, *array.shape[1:])
    if array.dtype.kind == "f":
        deviation = float(array.std()) or 1.0
        return generator.normal(float(array.mean()), deviation, shape).astype(array.dtype)
    wide = array.astype(np.int64)
    noise = generator.integers(wide.min(axis=0), wide.max(axis=0) + 1, shape)
    return noise.astype(array.dtype)


def in_batches(run: Run, inputs: Sequence[np.ndarray], batch: int | None) -> list[np.ndarray]:
    """Return the outputs of ``run`` for all items, in batches of exactly ``batch`` items.

    The last batch is filled with the first items. None runs all items at once.
    """
    count = len(inputs[0])
    size = batch or count
    rows = np.arange(-(-count // size) * size) % count
    parts = [
        _listed(run([np.ascontiguousarray(array[part]) for array in inputs]))
        for part in rows.reshape(-1, size)
    ]
    return [np.concatenate(output)[:count] for output in zip(*parts, strict=True)]


def _listed(outputs: np.ndarray | Sequence[np.ndarray]) -> Sequence[np.ndarray]:
    return [outputs] if isinstance(outputs, np.ndarray) else outputs


def difference(
    outputs: Sequence[np.ndarray], expected: Sequence[np.ndarray], *, rounded: bool = False
) -> float:
    """Return ``‖outputs - expected‖ / spread``, Frobenius norms, in float64; of the worst output.

    The spread is ``‖expected - its mean over the items‖``, so 1 is as far as a model that answers
    every item with the mean. With ``rounded`` it is at least ``‖expected - its mean over the
    classes‖``: a model with random weights answers all items alike. Items whose expected values
    are not finite are left out.
    """
    least = 1.0 if rounded else _RESOLUTION
    pairs = zip(outputs, expected, strict=True)
    return max((_difference(output, target, least) for output, target in pairs), default=0.0)


def _difference(output: np.ndarray, expected: np.ndarray, least: float) -> float:
    if output.shape != expected.shape:
        return float("inf")
    output, expected = (x.reshape(len(x), -1).astype(np.float64) for x in (output, expected))
    finite = np.isfinite(expected).all(axis=1)
    if finite.any():
        output, expected = output[finite], expected[finite]
    return float(np.linalg.norm(output - expected) / _spread(expected, least))


def spread_per_item(expected: np.ndarray) -> float:
    """Return the spread of a program's outputs ``[items, ...]``, root mean square over the items.

    It is that of :func:`difference` with ``rounded``.
    """
    flat = expected.reshape(len(expected), -1).astype(np.float64)
    return _spread(flat, 1.0) / math.sqrt(len(flat))


def _spread(expected: np.ndarray, least: float) -> float:
    spread = np.linalg.norm(expected - expected.mean(axis=0))
    if expected.shape[1] > 1:  # a value that all outputs of an item share does not count
        smallest = least * np.linalg.norm(expected - expected.mean(axis=1, keepdims=True))
    else:
        smallest = _SINGLE_RESOLUTION * np.linalg.norm(expected)
    return float(max(spread, smallest, np.finfo(np.float64).tiny))

"""Check that a model computes each item of a batch by itself, at every batch size. Pure NumPy.

    items: samples or noise ┐                      ┌→ the same item twice      → deterministic?
    mates: zeros, extremes, ┴→ batches of 1, 2, 3, ┼→ beside different mates   → independent?
           other items        the largest          └→ alone again, at the end  → stateless?

Serving joins requests of strangers into one batch and pads it with zeros. If an answer depended on
the rest of its batch, each client would get a function of the others' requests.

Differences are shares of the outputs' spread, their standard deviation over the items. At one batch
size a program does the same arithmetic on an item whatever its mates are, so :data:`ROUNDING` is
far above what it needs. Another batch size may sum in another order. In float32 that changes an
output by about 1e-6 of the largest one, so up to :data:`MAGNITUDE` of it never counts.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from cluster.errors import HeadraceError
from cluster.tensors import TensorSpec

Item = list[np.ndarray]
"""One array ``[1, ...]`` per input of the model."""

Run = Callable[[list[np.ndarray]], list[np.ndarray]]
"""Input arrays ``[batch, ...]`` to output arrays ``[batch, ...]``; raises HeadraceError."""

ROUNDING = 1e-3
"""Largest difference between two answers to one item, as a share of the outputs' spread."""

MAGNITUDE = 1e-5
"""Share of the largest output that is rounding, for outputs whose spread is small beside them."""

LARGEST_BATCH = 8
"""Default size of the largest batch."""

ZEROS = "zeros"
SAFE_MATES = (ZEROS, "copies of itself", "other items")
"""Mates that each model takes."""

_ITEMS = 3
_SAMPLES = 4


@dataclass(frozen=True)
class Dependence:
    """A reason why the answers to an item differ."""

    kind: Literal["state", "single", "batch"]
    """state: on earlier runs or random numbers; single: no run on one item; batch: on its batch."""

    reason: str
    """Clause with the batch size and the difference."""


@dataclass(frozen=True)
class Inputs:
    """Inputs of the check: items, whose answers are compared, and mates, to put beside them."""

    items: tuple[Item, ...]
    mates: Mapping[str, Item]
    """Description in the plural → item. :data:`ZEROS`, with which batches are padded, is one."""

    @staticmethod
    def of(samples: Sequence[np.ndarray]) -> Inputs:
        """Return items out of ``samples``, one array ``[N, ...]`` per input, and their mates.

        Integers may be indices, so their extremes are those of the samples.
        """
        items = [[array[row : row + 1] for array in samples] for row in _distinct(samples)]
        low, high = zip(*map(_extremes, samples), strict=True)
        mates = {
            ZEROS: [np.zeros_like(array[:1]) for array in samples],
            "huge values": [*high],
            "copies of itself": items[0],
            "huge negative values": [*low],
            "other items": [array[-1:] for array in samples],
        }
        return Inputs(tuple(items), mates)

    def accepted(self, run: Run) -> Inputs:
        """Return the inputs without mates on which ``run`` fails: the model cannot take these.

        A model that uses numbers as indices refuses extreme ones, for instance. Zeros stay, because
        batches are padded with them.
        """
        return self.beside([n for n, mate in self.mates.items() if n == ZEROS or runs(run, mate)])

    def beside(self, names: Sequence[str]) -> Inputs:
        """Return the inputs with the mates of these names only."""
        return Inputs(self.items, {name: self.mates[name] for name in names})


def one_by_one(run: Run) -> Run:
    """Return a function that runs each item of a batch alone, and joins the answers."""

    def run_each(arrays: list[np.ndarray]) -> list[np.ndarray]:
        if len(arrays[0]) == 1:
            return run(arrays)
        answers = [run([array[i : i + 1] for array in arrays]) for i in range(len(arrays[0]))]
        return [np.concatenate(outputs) for outputs in zip(*answers, strict=True)]

    return run_each


def noise(specs: Sequence[TensorSpec]) -> Iterator[list[np.ndarray]]:
    """Yield samples for a model of which none are known: the first that it runs are the best.

    Normal floats and whole bytes, then zeros and ones, for models that use their inputs as indices,
    then zeros alone.
    """
    random = np.random.default_rng(0)
    shapes = [(_SAMPLES, *spec.item_shape) for spec in specs]
    bits = [random.integers(0, 2, shape) for shape in shapes]
    yield [
        random.standard_normal(shape).astype(spec.dtype)
        if spec.dtype.kind == "f"
        else random.integers(0, 256, shape).astype(spec.dtype)
        if spec.dtype == np.uint8
        else ones.astype(spec.dtype)
        for spec, shape, ones in zip(specs, shapes, bits, strict=True)
    ]
    yield [ones.astype(spec.dtype) for spec, ones in zip(specs, bits, strict=True)]
    yield [spec.zeros(_SAMPLES) for spec in specs]


def runs(run: Run, item: Item) -> bool:
    """Return whether ``run`` answers the item without an error."""
    try:
        run(item)
    except HeadraceError:
        return False
    return True


def find(
    run: Run,
    inputs: Inputs,
    largest: int = LARGEST_BATCH,
    *,
    across: float | None = ROUNDING,
    fresh: Run | None = None,
    repeats: int = 1,
) -> Dependence | None:
    """Return the first dependence of an item's answer on anything else, or None.

    ``largest``: largest batch; 1 checks only that answers are deterministic and stateless.
    ``repeats``: number of further runs on the same input.
    ``across``: largest difference from the answer alone, at another batch size; None: unchecked,
    for quantized programs. ``fresh``: the same model that has not run yet, and gets another item
    first.
    """
    alone = []
    for item in inputs.items:
        answer = _run(run, item, 1)
        if isinstance(answer, str):
            return Dependence("single", answer)
        alone.append(answer)
    scales = [_Scale.of(np.concatenate(outputs)) for outputs in zip(*alone, strict=True)]
    for _ in range(repeats):
        again = _run(run, inputs.items[0], 1)
        if isinstance(again, str):
            return Dependence("state", f"a second run on the same input fails: {again}")
        change = _difference(again, alone[0], scales)
        if not change <= ROUNDING:
            return Dependence(
                "state",
                f"two runs on the same input differ by {_share(change)}: it draws random numbers, "
                "or keeps state between calls",
            )
    for size in sorted({2, 3, largest}) if largest > 1 else ():
        dependence = _in_batch(run, inputs, size, _Answers(alone, scales, across))
        if dependence is not None:
            return dependence
    if fresh is not None:
        _run(fresh, inputs.items[-1], 1)
    for later in (run, fresh or run):
        answer = _run(later, inputs.items[0], 1)
        if isinstance(answer, str):
            return Dependence("state", f"after other inputs, a run fails: {answer}")
        change = _difference(answer, alone[0], scales)
        if not change <= ROUNDING:
            return Dependence(
                "state",
                f"after other inputs, its answer to the same input differs by {_share(change)}: "
                "it keeps state between calls",
            )
    return None


@dataclass(frozen=True)
class _Answers:
    """Answers to the items alone, the scale of each output, and the limit of a difference."""

    alone: Sequence[list[np.ndarray]]
    scales: Sequence[_Scale]
    across: float | None


def _in_batch(run: Run, inputs: Inputs, size: int, answers: _Answers) -> Dependence | None:
    """Compare the answers to items at fixed places of a batch, beside zeros and beside others."""
    places = {1: 0} if size == 2 else {1: min(1, len(inputs.items) - 1), 2: 0}
    places |= {size - 1: 0} if size > 3 else {}  # a limit per batch shows in its last row
    beside_zeros: dict[int, list[np.ndarray]] = {}
    for mates in _fillings(inputs.mates, size - len(places)):
        beside = " and ".join(dict.fromkeys(mates))
        rest = (inputs.mates[name] for name in mates)
        rows = [inputs.items[places[at]] if at in places else next(rest) for at in range(size)]
        outputs = _run(run, [np.concatenate(arrays) for arrays in zip(*rows, strict=True)], size)
        if isinstance(outputs, str):
            return Dependence("batch", outputs)
        for at, item in places.items():
            answer = [output[at : at + 1] for output in outputs]
            away = _difference(answer, answers.alone[item], answers.scales)
            if answers.across is not None and not away <= answers.across:
                return Dependence(
                    "batch",
                    f"beside {beside}, in a batch of {size}, an item's answer differs by "
                    f"{_share(away)} from its answer alone",
                )
            change = _difference(answer, beside_zeros.setdefault(at, answer), answers.scales)
            if not change <= ROUNDING:
                return Dependence(
                    "batch",
                    f"beside {beside}, in a batch of {size}, an item's answer differs by "
                    f"{_share(change)} from its answer beside {ZEROS}",
                )
    return None


def _run(run: Run, arrays: list[np.ndarray], size: int) -> list[np.ndarray] | str:
    """Return the outputs of a batch, or why they are not one answer per item."""
    try:
        outputs = run(arrays)
    except HeadraceError as error:
        return f"it does not run on a batch of {size}: {error}"
    if not outputs or any(output.shape[:1] != (size,) for output in outputs):
        shapes = ", ".join(str(list(output.shape)) for output in outputs)
        return f"for a batch of {size} it returns {shapes or 'no tensor'}"
    return outputs


def _fillings(mates: Mapping[str, Item], count: int) -> Iterator[tuple[str, ...]]:
    """Yield names of ``count`` mates: all zeros, then the others in turn."""
    yield (ZEROS,) * count
    if others := [name for name in mates if name != ZEROS]:
        yield tuple(others[i % len(others)] for i in range(count))


@dataclass(frozen=True)
class _Scale:
    """Spread and magnitude of one output over the items alone, of its finite values."""

    spread: float
    magnitude: float

    @staticmethod
    def of(outputs: np.ndarray) -> _Scale:
        finite = outputs[np.isfinite(outputs)].astype(np.float64)
        if not finite.size:
            return _Scale(0.0, 0.0)
        return _Scale(float(finite.std()), float(np.abs(finite).max()))


def _difference(
    actual: Sequence[np.ndarray], expected: Sequence[np.ndarray], scales: Sequence[_Scale]
) -> float:
    """Return the largest difference of all outputs, as a share of their spread."""
    return max(map(_of_output, actual, expected, scales))


def _of_output(actual: np.ndarray, expected: np.ndarray, scale: _Scale) -> float:
    """Return the difference, infinite if the shapes differ or only one of two values is finite."""
    if actual.shape != expected.shape:
        return math.inf
    differ = ~((actual == expected) | (np.isnan(actual) & np.isnan(expected)))
    if not differ.any():
        return 0.0
    largest = float(np.abs(actual[differ].astype(np.float64) - expected[differ]).max())
    if not math.isfinite(largest):
        return math.inf
    beyond = max(0.0, largest - MAGNITUDE * scale.magnitude)
    return beyond / max(scale.spread, sys.float_info.min)


def _share(difference: float) -> str:
    size = f"{difference:.3g}" if math.isfinite(difference) else "more than any number"
    return f"{size} of the outputs' spread (at most {ROUNDING:g} is rounding)"


def _distinct(samples: Sequence[np.ndarray]) -> list[int]:
    """Return the rows of the first samples that differ from each other, at most ``_ITEMS``."""
    rows: dict[bytes, int] = {}
    for row in range(len(samples[0])):
        rows.setdefault(b"".join(array[row].tobytes() for array in samples), row)
        if len(rows) == _ITEMS:
            break
    return [*rows.values()]


def _extremes(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the lowest and the highest item ``[1, ...]``."""
    if array.dtype.kind == "f":
        limits = np.finfo(array.dtype)
        return np.full_like(array[:1], limits.min), np.full_like(array[:1], limits.max)
    return array.min(axis=0, keepdims=True), array.max(axis=0, keepdims=True)

"""Samples with labels, in their source's encoding, read one at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from cluster.activation import OutputActivation
from cluster.errors import SourceError

Raw = bytes | str | dict[str, np.ndarray]
"""One sample: an encoded image file, a text, or input name → array without batch dimension."""


class SourceItems(Protocol):
    """Items of a source, each readable at any time."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> Raw:
        """Return the sample at ``index``; :class:`SourceError` if it cannot be read any more."""

    def name(self, index: int) -> str:
        """Return the origin of the sample, for messages."""


@dataclass(frozen=True)
class ListItems:
    """Image files or texts in memory."""

    values: Sequence[bytes] | Sequence[str]
    source: str

    def __len__(self) -> int:
        return len(self.values)

    def read(self, index: int) -> Raw:
        return self.values[index]

    def name(self, index: int) -> str:
        return f"{self.source} sample {index}"


@dataclass(frozen=True)
class ArrayItems:
    """Input arrays, each ``[N, ...]``, by input name."""

    arrays: dict[str, np.ndarray]
    source: str

    def __len__(self) -> int:
        return min(len(array) for array in self.arrays.values())

    def read(self, index: int) -> Raw:
        return {name: array[index] for name, array in self.arrays.items()}

    def name(self, index: int) -> str:
        return f"{self.source} sample {index}"


_ACTIVATIONS: dict[str, OutputActivation] = {"i": "softmax", "b": "sigmoid", "f": "none"}
"""Kind of the labels' dtype → activation of the outputs that learn them."""


@dataclass(frozen=True, eq=False)
class Samples:
    """Selection of a source's samples, in its own order; a subset copies no sample.

    ``labels`` has a row for each sample, by the meaning of the outputs that learn it: its class,
    int64 ``[N]``; whether it has each label, bool ``[N, labels]``; numbers, float32
    ``[N, numbers]``. ``indices`` is int64 ``[N]``: its position in ``items``.
    """

    items: SourceItems
    labels: np.ndarray
    indices: np.ndarray

    def __len__(self) -> int:
        return len(self.indices)

    def raw(self, index: int) -> Raw:
        """Return the sample at ``index`` in its encoding; SourceError if it cannot be read."""
        return self.items.read(int(self.indices[index]))

    def name(self, index: int) -> str:
        """Return the origin of the sample at ``index``, for messages."""
        return self.items.name(int(self.indices[index]))

    @property
    def activation(self) -> OutputActivation:
        """Activation of a model that learns such labels."""
        return _ACTIVATIONS[self.labels.dtype.kind]

    def subset(self, indices: np.ndarray | slice) -> Samples:
        """Return the samples at ``indices`` (int64 ``[M]``, or a slice), in that order."""
        return Samples(self.items, self.labels[indices], self.indices[indices])


@dataclass(frozen=True, eq=False)
class LabelledSet:
    """All samples of one source, the names of the labels, and a fingerprint of the content.

    ``labels`` names classes, independent labels or numbers. A source without labels has no names,
    and all its samples are labelled 0.
    """

    samples: Samples
    labels: tuple[str, ...]
    fingerprint: str


def default_names(labels: np.ndarray) -> tuple[str, ...]:
    """Return default names: "0" up to the highest class or last label; of numbers "value"."""
    if labels.dtype.kind == "f":
        numbers = labels.shape[1] if labels.ndim > 1 else 1
        return ("value",) if numbers == 1 else tuple(f"value_{i}" for i in range(numbers))
    if labels.ndim > 1:
        count = labels.shape[1]
    elif labels.dtype.kind in "iu" and labels.size:
        count = int(labels.max()) + 1
    else:  # of other types, labelled_set says what it expects
        count = 0
    return tuple(map(str, range(count)))


def labelled_set(
    items: SourceItems, labels: np.ndarray, names: Sequence[str], fingerprint: str, source: str
) -> LabelledSet:
    """Combine items, labels and their names after a consistency check.

    ``labels``: classes, integers ``[N]``; independent labels, bool or 0 and 1 ``[N, labels]``; or
    numbers, floats ``[N]`` or ``[N, numbers]``.

    Raises :class:`SourceError` when they do not match, or when there is no sample.
    """
    if len(items) == 0:
        raise SourceError(f"{source} has no samples")
    if len(labels) != len(items):
        raise SourceError(f"{source} has {len(items)} samples but {len(labels)} labels")
    if labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer):
        return _classes(items, labels, names, fingerprint, source)
    if labels.dtype.kind == "f" and labels.ndim <= 2:
        rows = labels.reshape(len(labels), -1).astype(np.float32)
        if not np.isfinite(rows).all():
            first = int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])
            raise SourceError(f"{items.name(first)} has a number that is not finite as label")
    elif labels.ndim == 2 and (labels.dtype == np.bool_ or _are_bits(labels)):
        rows = labels.astype(np.bool_)
    else:
        raise SourceError(
            f"{source}: labels are {labels.dtype} {list(labels.shape)}, expected classes as "
            f"integers [N], independent labels as bool or 0 and 1 [N, labels], or numbers as "
            f"floats [N] or [N, numbers]"
        )
    width = rows.shape[1]
    if len(names) != width or len(set(names)) != width or width == 0:
        raise SourceError(
            f"{source} has {width} labels per sample and the names {', '.join(names) or '(none)'}; "
            f"expected one distinct name for each"
        )
    return LabelledSet(_all_samples(items, rows), tuple(names), fingerprint)


def _are_bits(labels: np.ndarray) -> bool:
    integers = np.issubdtype(labels.dtype, np.integer)
    return bool(integers and ((labels == 0) | (labels == 1)).all())


def _classes(
    items: SourceItems, labels: np.ndarray, names: Sequence[str], fingerprint: str, source: str
) -> LabelledSet:
    if len(names) < 2 or len(set(names)) != len(names):
        raise SourceError(
            f"{source} has the classes {', '.join(names) or '(none)'}; expected at least two, "
            f"with distinct names"
        )
    outside = np.flatnonzero((labels < 0) | (labels >= len(names)))
    if len(outside):
        first = int(outside[0])
        raise SourceError(
            f"{items.name(first)} has label {labels[first]}, expected 0..{len(names) - 1} "
            f"for {len(names)} classes"
        )
    return LabelledSet(_all_samples(items, labels.astype(np.int64)), tuple(names), fingerprint)


def unlabelled_set(items: SourceItems, fingerprint: str, source: str) -> LabelledSet:
    """Return items without labels; :class:`SourceError` when there are none."""
    if len(items) == 0:
        raise SourceError(f"{source} has no samples")
    return LabelledSet(_all_samples(items, np.zeros(len(items), np.int64)), (), fingerprint)


def _all_samples(items: SourceItems, labels: np.ndarray) -> Samples:
    return Samples(items, labels, np.arange(len(items), dtype=np.int64))

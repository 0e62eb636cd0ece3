"""Samples with their labels, encoded as their source keeps them and read one at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from cluster.errors import SourceError

Raw = bytes | str | dict[str, np.ndarray]
"""One sample: an encoded image file, a text, or input name → array without batch dimension."""


class Items(Protocol):
    """What a source gives: a number of samples, each readable at any time."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> Raw:
        """The sample at ``index``; :class:`SourceError` when it cannot be read any more."""

    def name(self, index: int) -> str:
        """Where the sample comes from, for messages."""


@dataclass(frozen=True)
class ListItems:
    """Image files or texts held in memory."""

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
    """Ready input arrays, each ``[N, ...]``, by input name."""

    arrays: dict[str, np.ndarray]
    source: str

    def __len__(self) -> int:
        return min(len(array) for array in self.arrays.values())

    def read(self, index: int) -> Raw:
        return {name: array[index] for name, array in self.arrays.items()}

    def name(self, index: int) -> str:
        return f"{self.source} sample {index}"


@dataclass(frozen=True, eq=False)
class Samples:
    """Some samples of a source, in an order of their own; a subset copies no sample.

    ``labels`` and ``indices`` are int64 ``[N]``: the class of each sample, and where it stands
    in ``items``.
    """

    items: Items
    labels: np.ndarray
    indices: np.ndarray

    def __len__(self) -> int:
        return len(self.indices)

    def raw(self, index: int) -> Raw:
        """The sample at ``index`` as its source keeps it; SourceError if it cannot be read."""
        return self.items.read(int(self.indices[index]))

    def name(self, index: int) -> str:
        """Where the sample at ``index`` comes from, for messages."""
        return self.items.name(int(self.indices[index]))

    def subset(self, indices: np.ndarray | slice) -> Samples:
        """The samples at ``indices`` (int64 ``[M]``, or a slice), in that order."""
        return Samples(self.items, self.labels[indices], self.indices[indices])


@dataclass(frozen=True, eq=False)
class LabelledSet:
    """All samples of one source, the name of each class, and a fingerprint of the content.

    A source without labels has no classes, and samples that are all labelled 0.
    """

    samples: Samples
    labels: tuple[str, ...]
    fingerprint: str


def numbered(labels: np.ndarray) -> tuple[str, ...]:
    """Names for classes that have none: "0" up to the highest label."""
    return tuple(str(number) for number in range(int(labels.max(initial=-1)) + 1))


def labelled_set(
    items: Items, labels: np.ndarray, names: Sequence[str], fingerprint: str, source: str
) -> LabelledSet:
    """Check that items, labels (integers ``[N]``) and class names fit together, and join them.

    Raises :class:`SourceError` when they do not, or when there is no sample.
    """
    if len(items) == 0:
        raise SourceError(f"{source} has no samples")
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise SourceError(
            f"{source}: labels are {labels.dtype} {list(labels.shape)}, expected integers [N]"
        )
    if len(labels) != len(items):
        raise SourceError(f"{source} has {len(items)} samples but {len(labels)} labels")
    if len(names) < 2 or len(set(names)) != len(names):
        raise SourceError(
            f"{source} has the classes {', '.join(names) or '(none)'}; expected at least two, "
            f"each named once"
        )
    outside = np.flatnonzero((labels < 0) | (labels >= len(names)))
    if len(outside):
        first = int(outside[0])
        raise SourceError(
            f"{items.name(first)} has label {labels[first]}, expected 0..{len(names) - 1} "
            f"for {len(names)} classes"
        )
    return LabelledSet(_whole(items, labels.astype(np.int64)), tuple(names), fingerprint)


def unlabelled_set(items: Items, fingerprint: str, source: str) -> LabelledSet:
    """Items of which nobody says what they are; :class:`SourceError` when there are none."""
    if len(items) == 0:
        raise SourceError(f"{source} has no samples")
    return LabelledSet(_whole(items, np.zeros(len(items), np.int64)), (), fingerprint)


def _whole(items: Items, labels: np.ndarray) -> Samples:
    return Samples(items, labels, np.arange(len(items), dtype=np.int64))

"""Ranges of the inputs' elements that are indices, for the manifest.

operands → Elements → lowest and highest value of each element → runs of equal ranges
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch

from cluster.tensors import IndexRange, TensorSpec

_UNLIMITED = (-(2**63), 2**63 - 1)

SMALL = 2**20
"""Number whose small multiples float32 has exactly."""


class Limits:
    """Lowest and highest value of every element of the inputs, int64 ``[elements]``."""

    def __init__(self, inputs: Sequence[TensorSpec]) -> None:
        self._inputs = tuple(inputs)
        self._first = np.cumsum([0, *(int(np.prod(spec.item_shape)) for spec in inputs)])
        self.low = np.full(self._first[-1], _UNLIMITED[0])
        self.high = np.full(self._first[-1], _UNLIMITED[1])

    def add(self, numbers: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> None:
        """Narrow the ranges of the elements ``numbers``; all int64 ``[N]``."""
        np.maximum.at(self.low, numbers.numpy(), low.numpy())
        np.minimum.at(self.high, numbers.numpy(), high.numpy())

    def allow(self, numbers: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> bool:
        """Whether the ranges of the elements ``numbers`` are no wider than ``low`` to ``high``."""
        chosen = numbers.numpy()
        narrow = (self.low[chosen] >= low.numpy()) & (self.high[chosen] <= high.numpy())
        return bool(narrow.all())

    def are_small(self, name: str) -> bool:
        """Whether every element of the input is limited to at most :data:`SMALL`."""
        position = [spec.name for spec in self._inputs].index(name)
        part = slice(self._first[position], self._first[position + 1])
        return bool((self.low[part] >= -SMALL).all() and (self.high[part] <= SMALL).all())

    def ranges(self) -> dict[str, tuple[IndexRange, ...]]:
        """Return the limited inputs, each with its runs of equal ranges."""
        result = {}
        for spec, first, last in zip(self._inputs, self._first, self._first[1:], strict=False):
            pairs = np.stack([self.low[first:last], self.high[first:last]], 1)
            starts = [0, *(np.flatnonzero((pairs[1:] != pairs[:-1]).any(1)) + 1), len(pairs)]
            runs = tuple(
                IndexRange(start=start, stop=stop, low=int(low), high=int(high))
                for start, stop in itertools.pairwise(starts)
                for low, high in [pairs[start]]
                if (low, high) != _UNLIMITED
            )
            if runs:
                result[spec.name] = runs
        return result

    def among(self, inputs: Sequence[TensorSpec]) -> Limits:
        """Return the limits of ``inputs``, some of which are among those of these limits."""
        specs, ranges = set(self._inputs), self.ranges()
        return Limits.of(inputs, {s.name: ranges.get(s.name, ()) for s in inputs if s in specs})

    @staticmethod
    def of(inputs: Sequence[TensorSpec], ranges: dict[str, tuple[IndexRange, ...]]) -> Limits:
        """Return the limits that :meth:`ranges` describes."""
        limits = Limits(inputs)
        for spec, first, last in zip(inputs, limits._first, limits._first[1:], strict=False):
            for run in ranges.get(spec.name, ()):
                limits.low[first:last][run.start : run.stop] = run.low
                limits.high[first:last][run.start : run.stop] = run.high
        return limits

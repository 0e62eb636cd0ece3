"""Range check of the elements of inputs that index a table.

    manifest: input → runs of elements, each with a range ─→ IndexLimits, once
    arrays of a request → IndexLimits.check → RequestError, or a program that no index can harm

Compiled code ends its whole process on an index out of range, with every other request in it, or
answers with numbers from beyond the table.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from cluster.errors import RequestError
from cluster.tensors import IndexRange, TensorSpec


class IndexLimits:
    """Ranges of the inputs' elements, ready for the checks of many requests."""

    def __init__(
        self, inputs: Sequence[TensorSpec], ranges: Mapping[str, Sequence[IndexRange]]
    ) -> None:
        """``ranges``: input → its limited runs of elements; other inputs are not checked."""
        self._limits = [
            (position, _Limits(spec, ranges[spec.name]))
            for position, spec in enumerate(inputs)
            if ranges.get(spec.name)
        ]

    def check(self, arrays: Sequence[np.ndarray]) -> None:
        """Raise RequestError for an element out of its range.

        ``arrays``: ``[batch, ...]`` for each input, of its dtype and shape.
        """
        for position, limits in self._limits:
            limits.check(arrays[position])


class _Limits:
    """Ranges of one input: ``low`` and ``high``, int64 ``[N]``, of the elements ``columns``."""

    def __init__(self, spec: TensorSpec, runs: Sequence[IndexRange]) -> None:
        self._spec = spec
        elements = math.prod(spec.item_shape)
        parts = [np.arange(elements)[run.start : run.stop] for run in runs]
        columns = np.concatenate(parts)
        # A slice is a view, where an array of positions copies.
        adjacent = len(columns) and len(columns) == columns[-1] - columns[0] + 1
        self._columns = slice(columns[0], columns[-1] + 1) if adjacent else columns
        self._numbers = columns
        sizes = [len(part) for part in parts]
        self._low = np.repeat([run.low for run in runs], sizes)
        self._high = np.repeat([run.high for run in runs], sizes)
        # One pair of numbers is compared faster than one for each element.
        if len({(run.low, run.high) for run in runs}) == 1:
            self._low, self._high = self._low[:1], self._high[:1]

    def check(self, array: np.ndarray) -> None:
        values = array.reshape(len(array), -1)[:, self._columns]
        if values.dtype.kind == "f":
            values = np.trunc(values)
        # Not a comparison with each bound's opposite: a NaN is out of range.
        inside = (values >= self._low) & (values <= self._high)
        if not inside.all():
            raise RequestError(self._sentence(array, ~inside))

    def _sentence(self, array: np.ndarray, outside: np.ndarray) -> str:
        item, column = np.argwhere(outside)[0]
        number = self._numbers[column]
        value = array.reshape(len(array), -1)[item, number]
        low, high = (bounds[min(column, len(bounds) - 1)] for bounds in (self._low, self._high))
        place = ", ".join(map(str, (item, *np.unravel_index(number, self._spec.item_shape))))
        return (
            f"input {self._spec.name} holds {value} at [{place}], this model accepts {low} to "
            f"{high} there"
        )

"""``data`` of a JSON tensor → an array, exactly: without wrapping, rounding or guessing.

    nested or flat lists ──► one flat list, every level's length checked
                         ──► every element's type checked ──► numpy

Lists are flattened level by level and not passed to numpy whole: numpy would read ``[True, 2]`` as
integers and ``[1, "a"]`` as strings, without an error.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

from cluster.errors import RequestError
from cluster.protocol.json_body import excerpt
from cluster.tensors import TensorSpec

_ACCEPTED: dict[str, tuple[frozenset[type], str]] = {
    "b": (frozenset({bool}), "true or false"),
    "i": (frozenset({int}), "integers"),
    "u": (frozenset({int}), "integers"),
    "f": (frozenset({int, float}), "numbers"),
}
"""numpy's dtype.kind → accepted element types, and their description."""


def array_from_json(data: Any, shape: Sequence[int], spec: TensorSpec) -> np.ndarray:
    """Return an array of ``shape`` and ``spec``'s datatype, from ``data`` in row-major order.

    ``data`` is either nested like ``shape`` or one flat list. Raises RequestError when it is
    ragged, when its size differs from ``shape``, when an element has another type than the datatype
    (``1.0`` is not an integer, ``true`` not a number), or when one is out of range.
    """
    elements = _flatten(data, shape, spec)
    accepted, expected = _ACCEPTED[spec.dtype.kind]
    wrong = set(map(type, elements)) - accepted
    if wrong:
        index = next(i for i, element in enumerate(elements) if type(element) in wrong)
        raise _element_error(elements, index, spec, f"{expected}{_range_of(spec.dtype)}")
    return _to_array(elements, spec).reshape(shape)


def _flatten(data: Any, shape: Sequence[int], spec: TensorSpec) -> list[Any]:
    if not isinstance(data, list):
        raise RequestError(f"input {spec.name!r}: data must be an array, got {excerpt(data)}")
    count = math.prod(shape)
    if data and not isinstance(data[0], list):
        if len(data) != count:
            raise RequestError(
                f"input {spec.name!r}: data has {len(data)} elements, "
                f"its shape {list(shape)} needs {count}"
            )
        return data
    level: list[Any] = [data]
    for axis, size in enumerate(shape):
        if set(map(type, level)) != {list}:
            stray = next(entry for entry in level if not isinstance(entry, list))
            raise RequestError(
                f"input {spec.name!r}: data is ragged: {excerpt(stray)} is in a place where its "
                f"shape {list(shape)} needs an array of {size} (dimension {axis})"
            )
        lengths = set(map(len, level))
        if lengths != {size}:
            length = next(n for n in map(len, level) if n != size)
            raise RequestError(
                f"input {spec.name!r}: data has {length} entries in dimension {axis}, "
                f"its shape {list(shape)} needs {size}"
            )
        level = list(chain.from_iterable(level))
    return level


def _to_array(elements: list[Any], spec: TensorSpec) -> np.ndarray:
    dtype = spec.dtype
    try:
        with np.errstate(over="ignore"):
            array = np.array(elements, dtype)
    except OverflowError:
        limits = np.iinfo(dtype)
        index = next(
            i for i, element in enumerate(elements) if not limits.min <= element <= limits.max
        )
        raise _element_error(elements, index, spec, f"integers{_range_of(dtype)}") from None
    # JSON has no infinity: an infinite element was too large for the datatype.
    if dtype.kind == "f" and not np.isfinite(array).all():
        index = int(np.argmin(np.isfinite(array)))
        largest = float(np.finfo(dtype).max)
        raise _element_error(elements, index, spec, f"numbers within ±{largest:.8g}")
    return array


def _element_error(
    elements: list[Any], index: int, spec: TensorSpec, expected: str
) -> RequestError:
    return RequestError(
        f"input {spec.name!r}: element {index} of data (row-major) is {excerpt(elements[index])}, "
        f"{spec.datatype} takes {expected}"
    )


def _range_of(dtype: np.dtype) -> str:
    if dtype.kind not in "iu":
        return ""
    return f" in {np.iinfo(dtype).min}..{np.iinfo(dtype).max}"

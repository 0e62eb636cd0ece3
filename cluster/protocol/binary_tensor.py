"""Bytes of a body → an array that looks at them, never a copy.

    body  [ JSON ][ tensor a ][ tensor b ]
                  ▲ offset          the array is a view; it keeps the body alive

The protocol sends little-endian, row-major, packed elements: what numpy has in memory on the
machines Headrace runs on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from cluster.errors import RequestError
from cluster.tensors import TensorSpec

Body = bytes | bytearray | memoryview


def array_from_bytes(body: Body, offset: int, shape: Sequence[int], spec: TensorSpec) -> np.ndarray:
    """The array of ``shape`` and ``spec``'s datatype at ``offset`` of ``body``.

    The caller has checked that the body holds that many bytes. The result is a read-only view
    of a ``bytes`` body (a writable one of a ``bytearray``). Its elements may start at an odd
    address (``flags.aligned`` says so): whoever runs native code on it copies it first, into
    memory that is warm. Raises RequestError for a BOOL byte that is neither 0 nor 1.
    """
    count = math.prod(shape)
    array = np.frombuffer(body, spec.dtype, count, offset)
    if spec.datatype == "BOOL" and count and array.view(np.uint8).max() > 1:
        raise RequestError(
            f"input {spec.name!r}: BOOL bytes must be 0 or 1, got {int(array.view(np.uint8).max())}"
        )
    return array.reshape(shape)

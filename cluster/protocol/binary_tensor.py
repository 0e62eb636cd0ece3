"""Binary tensors: arrays as views of a body's bytes, without a copy.

    body  [ JSON ][ tensor a ][ tensor b ]
                  ▲ offset          the array is a view; it keeps the body alive

The protocol uses little-endian, row-major, packed elements: numpy's own layout on supported
machines.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from cluster.errors import RequestError
from cluster.tensors import TensorSpec

Body = bytes | bytearray | memoryview

HEADER_LENGTH = "Inference-Header-Content-Length"
"""HTTP header with the length of the JSON part of a body with binary tensors."""


def array_from_bytes(body: Body, offset: int, shape: Sequence[int], spec: TensorSpec) -> np.ndarray:
    """Return the array of ``shape`` and ``spec``'s datatype at ``offset`` of ``body``.

    The caller has checked that the body is long enough. The result is a read-only view of a
    ``bytes`` body (a writable one of a ``bytearray``). It may be unaligned (``flags.aligned``):
    native code needs a copy, made while the memory is in the cache. Raises RequestError for a BOOL
    byte other than 0 and 1.
    """
    count = math.prod(shape)
    array = np.frombuffer(body, spec.dtype, count, offset)
    if spec.datatype == "BOOL" and count and array.view(np.uint8).max() > 1:
        raise RequestError(
            f"input {spec.name!r}: BOOL bytes must be 0 or 1, got {int(array.view(np.uint8).max())}"
        )
    return array.reshape(shape)

"""Narrower datatypes that a client may send for an input: every value is converted exactly.

    FP16, BF16 → FP32      FP32 → FP64      INT32 → INT64      UINT8 → INT32

FP64 for FP32 would round, and integers for floats would hide a wrong preprocessing: both are
refused.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from cluster.tensors import DATATYPES, TensorSpec

BF16 = "BF16"
"""The upper half of an FP32; numpy has no such type. Binary only, as in Triton."""

_KINDS = {"f": "float", "i": "integer", "u": "integer", "b": "bool"}


@cache
def narrower(datatype: str) -> tuple[str, ...]:
    """Return the names of the datatypes whose every value ``datatype`` can hold, of its kind."""
    to = DATATYPES[datatype]
    names = [
        name
        for name, dtype in DATATYPES.items()
        if dtype != to and _KINDS[dtype.kind] == _KINDS[to.kind] and np.can_cast(dtype, to, "safe")
    ]
    return (*names, BF16) if datatype in ("FP32", "FP64") else tuple(names)


@cache
def sent_as(spec: TensorSpec, datatype: str) -> TensorSpec:
    """Return the spec of an input that is sent in a narrower datatype; BF16 as its 16 bits."""
    bits = "UINT16" if datatype == BF16 else datatype
    return spec.model_copy(update={"datatype": bits})


def widen(array: np.ndarray, datatype: str, spec: TensorSpec) -> np.ndarray:
    """Return an array that was sent in ``datatype``, in the spec's."""
    if datatype == BF16:
        array = (array.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return array.astype(spec.dtype)

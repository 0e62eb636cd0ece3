"""Inputs of a request → arrays in the order of the model's inputs, or texts.

name, datatype, shape against the spec ─┬► data in JSON          ─┬► widened? ──► array
                                        └► view of the body's end ┘
one input of datatype BYTES, for a text model ─────────────────────────────────► texts
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from cluster.errors import RequestError
from cluster.protocol import bytes_tensor
from cluster.protocol.binary_tensor import HEADER_LENGTH, Body, array_from_bytes
from cluster.protocol.fields import actual, names, parameters_of, spec_of
from cluster.protocol.json_tensor import array_from_json
from cluster.protocol.widening import BF16, narrower, sent_as, widen
from cluster.tensors import TensorSpec

_MAX_NAME = 200


def read_arrays(
    tensors: Any, body: Body, offset: int, specs: Sequence[TensorSpec]
) -> tuple[np.ndarray, ...]:
    """Return the arrays of the request's field ``inputs``, in the order of ``specs``.

    ``offset``: where the binary tensors begin in ``body``. RequestError for an unknown, missing or
    duplicate input, for a shape or datatype that does not match its spec, and for bytes left over.
    """
    if not isinstance(tensors, list) or not tensors:
        raise RequestError(f"inputs must be a list of tensors, {names(specs)}; {actual(tensors)}")
    by_name = {spec.name: spec for spec in specs}
    arrays: dict[str, np.ndarray] = {}
    end = memoryview(body).nbytes
    for tensor in tensors:
        spec = spec_of(tensor, by_name, "input")
        if spec.name in arrays:
            raise RequestError(f"input {spec.name!r} occurs twice")
        sent = _sent_spec(tensor, spec)
        shape = _read_shape(tensor, spec)
        size = _binary_size(tensor, sent, shape)
        if size is None:
            array = array_from_json(tensor["data"], shape, sent)
        else:
            if size > end - offset:
                raise _too_short(spec.name, size, end - offset)
            array = array_from_bytes(body, offset, shape, sent)
            offset += size
        arrays[spec.name] = array if sent is spec else widen(array, tensor["datatype"], spec)
    if offset != end:
        raise _too_long(end - offset)
    missing = [spec for spec in specs if spec.name not in arrays]
    if missing:
        raise RequestError(f"missing: {names(missing)}; the model takes {names(specs)}")
    batches = {name: array.shape[0] for name, array in arrays.items()}
    if len(set(batches.values())) != 1:
        raise RequestError(f"inputs must have the same batch size, got {batches}")
    return tuple(arrays[spec.name] for spec in specs)


def _sent_spec(tensor: dict[str, Any], spec: TensorSpec) -> TensorSpec:
    """Return ``spec``, or its like in the narrower datatype in which the tensor was sent."""
    datatype = tensor.get("datatype")
    if datatype == spec.datatype:
        return spec
    known = narrower(spec.datatype)
    if datatype not in known:
        hint = f"; {', '.join(known)} are converted exactly" if known else ""
        if datatype == bytes_tensor.DATATYPE:
            hint = "; BYTES is for texts of a text model, not of a route; /predict takes images"
        raise RequestError(
            f"input {spec.name!r}: datatype must be {spec.datatype!r}, {actual(datatype)}{hint}"
        )
    if datatype == BF16 and tensor.get("data") is not None:
        raise RequestError(f"input {spec.name!r}: send BF16 as binary data, or FP32 as JSON")
    return sent_as(spec, datatype)


def _read_shape(tensor: dict[str, Any], spec: TensorSpec) -> tuple[int, ...]:
    """Return the tensor's shape after a check against ``spec``."""
    shape = tensor.get("shape")
    # type(), not isinstance(): in Python, True is an int.
    if not isinstance(shape, list) or any(type(size) is not int for size in shape):
        raise RequestError(
            f"input {spec.name!r}: shape must be a list of integers like {list(spec.shape)}, "
            f"{actual(shape)}"
        )
    if len(shape) != len(spec.shape) or tuple(shape[1:]) != spec.item_shape or shape[0] < 1:
        raise RequestError(
            f"input {spec.name!r}: shape must be {list(spec.shape)}, -1 being a batch of at "
            f"least 1; {actual(shape)}"
        )
    return tuple(shape)


def _declared_size(tensor: dict[str, Any], name: str) -> Any:
    """Return the parameter ``binary_data_size``; None for a tensor with JSON ``data``."""
    size = parameters_of(tensor, f"input {name!r}").get("binary_data_size")
    if (size is None) == (tensor.get("data") is None):
        present = "neither" if size is None else "both"
        raise RequestError(
            f"input {name!r} needs either data or parameters.binary_data_size, got {present} "
            "(shared memory is not supported)"
        )
    return size


def _binary_size(tensor: dict[str, Any], spec: TensorSpec, shape: tuple[int, ...]) -> int | None:
    """Return the bytes of a binary tensor; None for a tensor with JSON ``data``."""
    size = _declared_size(tensor, spec.name)
    if size is None:
        return None
    # Python's integers do not overflow, and nothing is allocated for a huge shape.
    expected = math.prod(shape) * spec.dtype.itemsize
    if type(size) is not int or size != expected:
        raise RequestError(
            f"input {spec.name!r}: binary_data_size must be {expected}, for {spec.datatype} "
            f"{list(shape)}; {actual(size)}"
        )
    return size


def _too_short(name: str, size: int, left: int) -> RequestError:
    return RequestError(
        f"input {name!r}: binary_data_size is {size}, but {left} bytes are left after the JSON and "
        f"earlier inputs; is {HEADER_LENGTH} sent and right?"
    )


def _too_long(left: int) -> RequestError:
    return RequestError(f"{left} bytes are left over after the last binary input")


# ---------------------------------------------------------------------------- texts


def holds_texts(tensors: Any) -> bool:
    """Whether the request's field ``inputs`` has an input of datatype BYTES."""
    return isinstance(tensors, list) and any(
        isinstance(tensor, dict) and tensor.get("datatype") == bytes_tensor.DATATYPE
        for tensor in tensors
    )


def read_texts(tensors: Any, body: Body, offset: int, max_texts: int) -> tuple[str, ...]:
    """Return the texts of a request to a text model: its only input, ``[n]`` or ``[n, 1]``.

    The input's name is free, because the model has no such tensor. RequestError for other inputs
    beside it, a wrong shape or encoding, and for more than ``max_texts``.
    """
    if len(tensors) != 1:
        raise RequestError(
            f"inputs holds {len(tensors)} tensors, one of them BYTES; send the texts as the only "
            "input, or the model's own inputs as numbers"
        )
    (tensor,) = tensors
    name = tensor.get("name")
    if not isinstance(name, str) or len(name) > _MAX_NAME:
        raise RequestError(f"the name of an input must be a short string, {actual(name)}")
    shape = tensor.get("shape")
    if (
        not isinstance(shape, list)
        or any(type(size) is not int for size in shape)
        or len(shape) not in (1, 2)
        or shape[1:] not in ([], [1])
        or shape[0] < 1
    ):
        raise RequestError(
            f"input {name!r}: shape must be [n] or [n, 1], n being the number of texts; "
            f"{actual(shape)}"
        )
    count: int = shape[0]
    if count > max_texts:
        raise RequestError(
            f"the request holds {count} texts, this model takes at most {max_texts} in one request;"
            " split it"
        )
    size = _declared_size(tensor, name)
    left = memoryview(body).nbytes - offset
    if size is None:
        if left:
            raise _too_long(left)
        return tuple(bytes_tensor.texts_from_json(tensor["data"], count, name))
    if type(size) is not int or size < 0:
        raise RequestError(f"input {name!r}: binary_data_size must be a number, {actual(size)}")
    if size > left:
        raise _too_short(name, size, left)
    if size < left:
        raise _too_long(left - size)
    return tuple(bytes_tensor.texts_from_bytes(body, offset, size, count, name))

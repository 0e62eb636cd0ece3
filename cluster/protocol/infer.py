"""Decoder of inference requests: HTTP body → arrays in the order of the model's inputs.

header_length  None   the whole body is JSON
               n > 0  n bytes of JSON, then the binary tensors in the order of ``inputs``
               0      the whole body is the only input of the model ("raw binary request")

body ──► JSON ──► each input: name, datatype, shape against its spec ──► array
              ──► each requested output: its name, JSON or binary
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cluster.errors import RequestError
from cluster.protocol.binary_tensor import Body, array_from_bytes
from cluster.protocol.json_body import excerpt, read_object
from cluster.protocol.json_tensor import array_from_json
from cluster.tensors import TensorSpec

HEADER_LENGTH = "Inference-Header-Content-Length"
"""HTTP header with the length of the JSON part of a body with binary tensors."""


@dataclass(frozen=True, slots=True)
class RequestedOutput:
    """A requested output, as binary data or as JSON ``data``."""

    name: str
    binary: bool


@dataclass(frozen=True, slots=True, eq=False)
class InferRequest:
    """A decoded request. ``arrays`` follow the model's inputs and share one batch size.

    Arrays may be read-only views of the body. ``outputs`` is complete: without requested outputs,
    it holds all of the model's, in the model's order.
    """

    id: str | None
    arrays: tuple[np.ndarray, ...]
    outputs: tuple[RequestedOutput, ...]

    @property
    def batch(self) -> int:
        """Number of items, at least 1."""
        return self.arrays[0].shape[0]


def parse_header_length(value: str | None) -> int | None:
    """Return the :data:`HEADER_LENGTH` header as a number of bytes; None if absent."""
    if value is None:
        return None
    text = value.strip()
    # int() would also accept "+1", "1_0" and digits of other scripts.
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise RequestError(f"{HEADER_LENGTH} is {value!r:.40}, expected a number of bytes")
    return int(text)


def decode_infer(
    body: Body,
    header_length: int | None,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    max_json_bytes: int,
) -> InferRequest:
    """Decode the body of ``POST /v2/models/NAME/infer``.

    ``inputs`` and ``outputs`` are the model's specs. Raises RequestError (400) for a client's
    mistake and PayloadTooLargeError (413) for JSON above ``max_json_bytes``. Fields and
    parameters that the protocol leaves open (``priority``, ``timeout``, ...) are ignored.
    """
    if header_length == 0:
        return _decode_raw(body, inputs, outputs)
    view = memoryview(body)
    json_length = view.nbytes if header_length is None else header_length
    if not 0 < json_length <= view.nbytes:
        raise RequestError(
            f"{HEADER_LENGTH} is {json_length}, the body has {view.nbytes} bytes"
            if header_length is not None
            else "the body is empty, expected a JSON inference request"
        )
    message = read_object(view[:json_length], max_json_bytes)
    request_id = message.get("id")
    if request_id is not None and not isinstance(request_id, str):
        raise RequestError(f"id must be a string, got {excerpt(request_id)}")
    arrays = _read_inputs(message.get("inputs"), body, json_length, inputs)
    parameters = _parameters(message, "the request")
    binary_default = _flag(parameters, "binary_data_output", "the request")
    return InferRequest(
        id=request_id,
        arrays=arrays,
        outputs=_read_outputs(message.get("outputs"), bool(binary_default), outputs),
    )


def _decode_raw(
    body: Body, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> InferRequest:
    if len(inputs) != 1:
        raise RequestError(
            f"{HEADER_LENGTH} is 0 (a raw binary request), which needs a model with one input; "
            f"this one has {_names(inputs)}"
        )
    (spec,) = inputs
    size = memoryview(body).nbytes
    item_bytes = math.prod(spec.item_shape) * spec.dtype.itemsize
    if size == 0 or size % item_bytes:
        raise RequestError(
            f"a raw binary request must hold one or more whole items of {item_bytes} bytes "
            f"({spec.datatype} {list(spec.item_shape)}), got {size} bytes"
        )
    array = array_from_bytes(body, 0, (size // item_bytes, *spec.item_shape), spec)
    return InferRequest(None, (array,), tuple(RequestedOutput(s.name, True) for s in outputs))


def _read_inputs(
    tensors: Any, body: Body, offset: int, specs: Sequence[TensorSpec]
) -> tuple[np.ndarray, ...]:
    if not isinstance(tensors, list) or not tensors:
        raise RequestError(f"inputs must be a list of tensors, {_names(specs)}; {_actual(tensors)}")
    by_name = {spec.name: spec for spec in specs}
    arrays: dict[str, np.ndarray] = {}
    end = memoryview(body).nbytes
    for tensor in tensors:
        spec = _spec_of(tensor, by_name, "input")
        if spec.name in arrays:
            raise RequestError(f"input {spec.name!r} occurs twice")
        shape = _read_shape(tensor, spec)
        size = _binary_size(tensor, spec, shape)
        if size is None:
            arrays[spec.name] = array_from_json(tensor["data"], shape, spec)
            continue
        if size > end - offset:
            raise RequestError(
                f"input {spec.name!r}: binary_data_size is {size}, but {end - offset} bytes are "
                f"left after the JSON and earlier inputs; is {HEADER_LENGTH} sent and right?"
            )
        arrays[spec.name] = array_from_bytes(body, offset, shape, spec)
        offset += size
    if offset != end:
        raise RequestError(f"{end - offset} bytes are left over after the last binary input")
    missing = [spec for spec in specs if spec.name not in arrays]
    if missing:
        raise RequestError(f"missing: {_names(missing)}; the model takes {_names(specs)}")
    batches = {name: array.shape[0] for name, array in arrays.items()}
    if len(set(batches.values())) != 1:
        raise RequestError(f"inputs must have the same batch size, got {batches}")
    return tuple(arrays[spec.name] for spec in specs)


def _spec_of(tensor: Any, by_name: dict[str, TensorSpec], role: str) -> TensorSpec:
    if not isinstance(tensor, dict):
        raise RequestError(f"an {role} must be an object, got {excerpt(tensor)}")
    name = tensor.get("name")
    spec = by_name.get(name) if isinstance(name, str) else None
    if spec is None:
        raise RequestError(
            f"no {role} is named {excerpt(name)}; expected {_names(by_name.values())}"
        )
    return spec


def _read_shape(tensor: dict[str, Any], spec: TensorSpec) -> tuple[int, ...]:
    """Return the tensor's shape after a check of its datatype and shape against ``spec``."""
    if tensor.get("datatype") != spec.datatype:
        raise RequestError(
            f"input {spec.name!r}: datatype must be {spec.datatype!r}, "
            f"{_actual(tensor.get('datatype'))}"
        )
    shape = tensor.get("shape")
    # type(), not isinstance(): in Python, True is an int.
    if not isinstance(shape, list) or any(type(size) is not int for size in shape):
        raise RequestError(
            f"input {spec.name!r}: shape must be a list of integers like {list(spec.shape)}, "
            f"{_actual(shape)}"
        )
    if len(shape) != len(spec.shape) or tuple(shape[1:]) != spec.item_shape or shape[0] < 1:
        raise RequestError(
            f"input {spec.name!r}: shape must be {list(spec.shape)}, -1 being a batch of at "
            f"least 1; {_actual(shape)}"
        )
    return tuple(shape)


def _binary_size(tensor: dict[str, Any], spec: TensorSpec, shape: tuple[int, ...]) -> int | None:
    """Return the bytes of a binary tensor; None for a tensor with JSON ``data``."""
    size = _parameters(tensor, f"input {spec.name!r}").get("binary_data_size")
    if (size is None) == (tensor.get("data") is None):
        present = "neither" if size is None else "both"
        raise RequestError(
            f"input {spec.name!r} needs either data or parameters.binary_data_size, got {present} "
            "(shared memory is not supported)"
        )
    if size is None:
        return None
    # Python's integers do not overflow, and nothing is allocated for a huge shape.
    expected = math.prod(shape) * spec.dtype.itemsize
    if type(size) is not int or size != expected:
        raise RequestError(
            f"input {spec.name!r}: binary_data_size must be {expected}, for {spec.datatype} "
            f"{list(shape)}; {_actual(size)}"
        )
    return size


def _read_outputs(
    entries: Any, binary_default: bool, specs: Sequence[TensorSpec]
) -> tuple[RequestedOutput, ...]:
    if entries is None or entries == []:
        return tuple(RequestedOutput(spec.name, binary_default) for spec in specs)
    if not isinstance(entries, list):
        raise RequestError(f"outputs must be a list, {_actual(entries)}")
    by_name = {spec.name: spec for spec in specs}
    requested: dict[str, RequestedOutput] = {}
    for output in entries:
        name = _spec_of(output, by_name, "output").name
        if name in requested:
            raise RequestError(f"output {name!r} is requested twice")
        parameters = _parameters(output, f"output {name!r}")
        if "classification" in parameters:
            raise RequestError(
                f"output {name!r}: the classification parameter is not supported; read the "
                "output itself and take its largest values"
            )
        binary = _flag(parameters, "binary_data", f"output {name!r}")
        requested[name] = RequestedOutput(name, binary_default if binary is None else binary)
    return tuple(requested.values())


def _parameters(holder: dict[str, Any], owner: str) -> dict[str, Any]:
    parameters = holder.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise RequestError(f"parameters of {owner} must be an object, {_actual(parameters)}")
    return parameters


def _flag(parameters: dict[str, Any], name: str, owner: str) -> bool | None:
    value = parameters.get(name)
    if value is not None and not isinstance(value, bool):
        raise RequestError(f"{name} of {owner} must be true or false, {_actual(value)}")
    return value


def _names(specs: Any) -> str:
    return ", ".join(repr(spec.name) for spec in specs)


def _actual(value: Any) -> str:
    return "got nothing" if value is None else f"got {excerpt(value)}"

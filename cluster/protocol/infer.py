"""Decoder of inference requests: HTTP body → arrays in the order of the model's inputs.

header_length  None   the whole body is JSON
               n > 0  n bytes of JSON, then the binary tensors in the order of ``inputs``
               0      the whole body is the only input of the model ("raw binary request")

body ──► JSON ──► inputs: arrays, or texts for a text model             input_tensors
              ──► requested outputs: JSON, binary, or highest classes    requested_outputs
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cluster.errors import RequestError
from cluster.protocol.binary_tensor import HEADER_LENGTH, Body, array_from_bytes
from cluster.protocol.fields import flag, names, parameters_of
from cluster.protocol.input_tensors import holds_texts, read_arrays, read_texts
from cluster.protocol.json_body import excerpt, read_object
from cluster.protocol.requested_outputs import RequestedOutput, read_outputs
from cluster.tensors import TensorSpec


@dataclass(frozen=True, slots=True, eq=False)
class InferRequest:
    """A decoded request. ``arrays`` follow the model's inputs and share one batch size.

    Arrays may be read-only views of the body. ``outputs`` is complete: without requested outputs,
    it holds all of the model's, in the model's order. A request of texts has no arrays.
    """

    id: str | None
    arrays: tuple[np.ndarray, ...]
    outputs: tuple[RequestedOutput, ...]
    texts: tuple[str, ...] = ()

    @property
    def batch(self) -> int:
        """Number of items, at least 1."""
        return len(self.texts) or self.arrays[0].shape[0]


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
    max_texts: int = 0,
) -> InferRequest:
    """Decode the body of ``POST /v2/models/NAME/infer``.

    ``inputs`` and ``outputs`` are the model's specs. ``max_texts``: number of texts that a text
    model takes in one request; 0 for other models. Raises RequestError (400) for a client's
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
    tensors = message.get("inputs")
    arrays: tuple[np.ndarray, ...] = ()
    texts: tuple[str, ...] = ()
    if max_texts and holds_texts(tensors):
        texts = read_texts(tensors, body, json_length, max_texts)
    else:
        arrays = read_arrays(tensors, body, json_length, inputs)
    parameters = parameters_of(message, "the request")
    binary_default = flag(parameters, "binary_data_output", "the request")
    return InferRequest(
        id=request_id,
        arrays=arrays,
        outputs=read_outputs(message.get("outputs"), bool(binary_default), outputs),
        texts=texts,
    )


def _decode_raw(
    body: Body, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> InferRequest:
    if len(inputs) != 1:
        raise RequestError(
            f"{HEADER_LENGTH} is 0 (a raw binary request), which needs a model with one input; "
            f"this one has {names(inputs)}"
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

"""The protocol from the other side: arrays → a request, and an answer → arrays.

arrays → one body with all tensors as bytes, asking for bytes back   (the same for every target)
200 → JSON, bytes → arrays of the specs      other → the sentence of the error
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson

from cluster.errors import ProgramError
from cluster.protocol.infer import HEADER_LENGTH
from cluster.tensors import TensorSpec

_SENTENCE = 2000
"""Characters of another server's error that are passed on."""


def request_parts(
    arrays: Sequence[np.ndarray], specs: Sequence[TensorSpec]
) -> tuple[dict[str, str], tuple[bytes | memoryview, ...]]:
    """Headers of ``POST .../infer`` with ``arrays``, which are the specs' in order, and its body:
    bytes to be sent one behind the other, the tensors as they lie."""
    inputs = [
        {
            "name": spec.name,
            "datatype": spec.datatype,
            "shape": array.shape,
            "parameters": {"binary_data_size": array.nbytes},
        }
        for array, spec in zip(arrays, specs, strict=True)
    ]
    text = orjson.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}})
    # A view of what arrived lies at an odd address, but its bytes are in a row all the same.
    tensors = [np.ascontiguousarray(array).reshape(-1).view(np.uint8).data for array in arrays]
    headers = {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(text))}
    return headers, (text, *tensors)


def decode_answer(
    body: bytes, header_length: str | None, specs: Sequence[TensorSpec], items: int
) -> tuple[str, tuple[np.ndarray, ...]]:
    """The model's version, and the outputs of an answer to :func:`request_parts`, in the order of
    ``specs``: read-only views ``[items, ...]`` of the body. ProgramError if it is not what the
    specs say."""
    try:
        length = int(header_length or "")
        said = orjson.loads(body[:length])
        version = str(said.get("model_version", ""))
        described = {each["name"]: each for each in said["outputs"]}
        arrays, offset = {}, length
        for name, each in described.items():
            size = each["parameters"]["binary_data_size"]
            arrays[name] = body[offset : offset + size]
            offset += size
    except (ValueError, KeyError, TypeError) as error:
        raise ProgramError(f"the answer cannot be read: {error!r}") from None
    found = []
    for spec in specs:
        shape = (items, *spec.item_shape)
        given: dict[str, Any] = described.get(spec.name, {})
        size = math.prod(shape) * spec.dtype.itemsize
        if given.get("datatype") != spec.datatype or given.get("shape") != list(shape):
            raise ProgramError(
                f"output {spec.name!r} is {given.get('datatype')} {given.get('shape')}, expected "
                f"{spec.datatype} {list(shape)}: is another artifact served there now?"
            )
        if len(arrays[spec.name]) != size:
            raise ProgramError(f"output {spec.name!r} has {len(arrays[spec.name])} of {size} bytes")
        found.append(np.frombuffer(arrays[spec.name], spec.dtype).reshape(shape))
    return version, tuple(found)


def error_sentence(body: bytes) -> str:
    """What an error answer says; empty if it is none of the protocol's."""
    try:
        said = orjson.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        return ""
    return str(said)[:_SENTENCE]

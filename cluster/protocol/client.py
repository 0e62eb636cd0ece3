"""Client side of the protocol: arrays → a request, and an answer → arrays.

arrays → one body with binary tensors, requesting binary outputs   (the same for every target)
200 → JSON, bytes → arrays of the specs      other → the error's message
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson

from cluster.errors import ProgramError
from cluster.protocol.binary_tensor import HEADER_LENGTH
from cluster.tensors import TensorSpec

_MAX_ERROR_CHARACTERS = 2000
"""Maximum length of another server's error message that is passed on."""


def request_parts(
    arrays: Sequence[np.ndarray], specs: Sequence[TensorSpec]
) -> tuple[dict[str, str], tuple[bytes | memoryview, ...]]:
    """Return headers and body of ``POST .../infer`` with ``arrays`` in the order of ``specs``.

    The body consists of parts to be sent in order; tensors are views where they are contiguous.
    """
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
    # A view of a received body may be unaligned, but is contiguous all the same.
    tensors = [np.ascontiguousarray(array).reshape(-1).view(np.uint8).data for array in arrays]
    headers = {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(text))}
    return headers, (text, *tensors)


def decode_answer(
    body: bytes, header_length: str | None, specs: Sequence[TensorSpec], items: int
) -> tuple[str, tuple[np.ndarray, ...]]:
    """Return the model's version and outputs from an answer to :func:`request_parts`.

    Outputs are read-only views ``[items, ...]`` of the body, in the order of ``specs``.
    ProgramError if they do not match the specs.
    """
    try:
        length = int(header_length or "")
        answer = orjson.loads(body[:length])
        version = str(answer.get("model_version", ""))
        described = {output["name"]: output for output in answer["outputs"]}
        arrays, offset = {}, length
        for name, output in described.items():
            size = output["parameters"]["binary_data_size"]
            arrays[name] = body[offset : offset + size]
            offset += size
    except (ValueError, KeyError, TypeError) as error:
        raise ProgramError(f"the answer cannot be read: {error!r}") from None
    outputs = []
    for spec in specs:
        shape = (items, *spec.item_shape)
        actual: dict[str, Any] = described.get(spec.name, {})
        size = math.prod(shape) * spec.dtype.itemsize
        if actual.get("datatype") != spec.datatype or actual.get("shape") != list(shape):
            raise ProgramError(
                f"output {spec.name!r} is {actual.get('datatype')} {actual.get('shape')}, expected "
                f"{spec.datatype} {list(shape)}; check whether another artifact is deployed there"
            )
        if len(arrays[spec.name]) != size:
            raise ProgramError(f"output {spec.name!r} has {len(arrays[spec.name])} of {size} bytes")
        outputs.append(np.frombuffer(arrays[spec.name], spec.dtype).reshape(shape))
    return version, tuple(outputs)


def error_message(body: bytes) -> str:
    """Return the message of an error answer; empty if it does not follow the protocol."""
    try:
        message = orjson.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        return ""
    return str(message)[:_MAX_ERROR_CHARACTERS]

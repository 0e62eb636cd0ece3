"""Encoder of inference answers: arrays → headers and body.

outputs as JSON    {"outputs": [{..., "data": [...]}]}              application/json
any as binary      the same with binary_data_size, then the bytes   application/octet-stream
any as classes     its highest values as texts, of datatype BYTES   either
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from cluster.errors import ProgramError, RequestError
from cluster.protocol import bytes_tensor
from cluster.protocol.binary_tensor import HEADER_LENGTH
from cluster.protocol.classification import highest
from cluster.protocol.infer import InferRequest
from cluster.protocol.requested_outputs import RequestedOutput
from cluster.tensors import TensorSpec


@dataclass(frozen=True, slots=True)
class EncodedMessage:
    """Headers of an HTTP message, without Content-Length, and its body."""

    headers: dict[str, str]
    body: bytes


def encode_infer(
    model_name: str,
    model_version: str,
    request: InferRequest,
    arrays: Sequence[np.ndarray],
    specs: Sequence[TensorSpec],
    parameters: Mapping[str, str | float | bool] | None = None,
    labels: Sequence[str] = (),
) -> EncodedMessage:
    """Encode the program's outputs in the form that the client requested.

    ``arrays``: all outputs of the model in the order of ``specs``, each ``[batch, ...]`` with its
    spec's dtype. JSON ``data`` is flat, in row-major order. ``parameters``: parameters of the
    answer itself. ``labels``: names of the first output's elements, for classes.

    Raises ProgramError when an array does not match its spec. RequestError for NaN or infinity in
    an output requested as JSON, and NaN in one requested as classes.
    """
    by_name = {spec.name: (spec, array) for spec, array in zip(specs, arrays, strict=True)}
    described: list[dict[str, Any]] = []
    binary: list[bytes] = []
    for output in request.outputs:
        spec, array = by_name[output.name]
        if array.dtype != spec.dtype or array.shape != (request.batch, *spec.item_shape):
            raise ProgramError(
                f"output {spec.name!r} is {array.dtype} {list(array.shape)}, its spec says "
                f"{spec.dtype} {[request.batch, *spec.item_shape]}"
            )
        if output.classes is not None:
            named = labels if spec is specs[0] else ()
            described.append(_classes(spec.name, array, output, named, binary))
            continue
        entry: dict[str, Any] = {
            "name": spec.name,
            "datatype": spec.datatype,
            "shape": array.shape,
        }
        if output.binary:
            binary.append(array.tobytes())
            entry["parameters"] = {"binary_data_size": array.nbytes}
        else:
            entry["data"] = _json_ready(array, spec)
        described.append(entry)
    answer: dict[str, Any] = {"model_name": model_name, "model_version": model_version}
    if request.id is not None:
        answer["id"] = request.id
    if parameters:
        answer["parameters"] = parameters
    answer["outputs"] = described
    text = orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
    if not binary:
        return EncodedMessage({"Content-Type": "application/json"}, text)
    return EncodedMessage(
        {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(text))},
        b"".join((text, *binary)),
    )


def _classes(
    name: str,
    array: np.ndarray,
    output: RequestedOutput,
    labels: Sequence[str],
    binary: list[bytes],
) -> dict[str, Any]:
    """Describe the highest values of an output; binary data is added to ``binary``."""
    rows = highest(array, output.classes or 1, labels, name)
    texts = [text for row in rows for text in row]
    shape = [len(rows), len(rows[0])]
    entry: dict[str, Any] = {"name": name, "datatype": bytes_tensor.DATATYPE, "shape": shape}
    if not output.binary:
        return {**entry, "data": texts}
    binary.append(bytes_tensor.to_bytes(texts))
    return {**entry, "parameters": {"binary_data_size": len(binary[-1])}}


def _json_ready(array: np.ndarray, spec: TensorSpec) -> np.ndarray:
    """Return a flat array that orjson serializes natively."""
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        # orjson would write null, which clients read as a missing value or as zero.
        raise RequestError(
            f"output {spec.name!r} holds NaN or infinity, which JSON cannot represent; "
            "request binary output (binary_data_output: true)"
        )
    return np.ascontiguousarray(array).reshape(-1)

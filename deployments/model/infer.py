"""Inference requests of a model: body → arrays → batcher → answer body.

infer    body → decode_infer → submit → encode_infer                     tensors
predict  image | form | JSON → decode, preprocess → submit → prediction   one item
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from fastapi import Request
from starlette.responses import Response

from cluster.artifact.manifest import Manifest
from cluster.config.serving import Limits
from cluster.errors import PayloadTooLargeError, RequestError, UnsupportedMediaTypeError
from cluster.preprocess import TextEncoder
from cluster.protocol import form
from cluster.protocol.answer import encode_infer
from cluster.protocol.binary_tensor import HEADER_LENGTH
from cluster.protocol.indices import IndexLimits
from cluster.protocol.infer import decode_infer, parse_header_length
from cluster.protocol.predict import (
    DEFAULT_TOP_K,
    PredictRequest,
    decode_form,
    decode_predict,
    item_array,
    prediction,
)
from cluster.runtime.batcher import Answer
from cluster.runtime.content_digest import ContentDigest
from cluster.runtime.fatal_requests import FatalRequests, Mark
from cluster.runtime.priority_queue import Priority
from deployments.http import tracing
from deployments.http.body import read_body
from deployments.http.errors import json_response
from deployments.http.headers import SERVER_TIMING
from deployments.http.request import content_type, priority_of, require_tensors
from deployments.http.server_timing import server_timing
from deployments.model.images import read_image
from deployments.model.metrics import ModelMetrics

IMAGE_TYPES = ("image/png", "image/jpeg", "image/webp", "image/bmp", "image/gif")

_OTHER_IMAGE_TYPES = ("image/jpg", "image/pjpeg", "image/x-png", "image/x-bmp", "image/x-ms-bmp")
"""Unregistered names of the same formats, which clients send; the file itself decides."""

_FILE_TYPES = frozenset((*IMAGE_TYPES, *_OTHER_IMAGE_TYPES))


@dataclass(frozen=True)
class Model:
    """Model of a replica: its metadata, limits, batcher and metrics."""

    name: str
    version: str
    platform: str
    artifact: str
    """``NAME@ID``."""

    manifest: Manifest
    max_batch_size: int
    limits: Limits
    text_encoder: TextEncoder | None
    submit: Callable[[Sequence[np.ndarray], Priority, Mark], Awaitable[Answer]]
    digest: ContentDigest
    fatal: FatalRequests
    metrics: ModelMetrics

    @cached_property
    def index_limits(self) -> IndexLimits:
        """Ranges of the inputs that index a table."""
        return IndexLimits(self.manifest.inputs, self.manifest.index_limits)


async def infer(model: Model, request: Request) -> Response:
    """Answer a request of the Open Inference Protocol: JSON or binary tensors in and out."""
    require_tensors(request)
    priority = priority_of(request)
    body = await read_body(request, model.limits.body_bytes)
    started = time.perf_counter()
    header_length = parse_header_length(request.headers.get(HEADER_LENGTH))
    mark = await model.fatal.enter(model.digest.of(f"infer {header_length}", body))
    try:
        return await _infer(model, body, header_length, priority, mark, started)
    finally:
        mark.leave()


async def _infer(
    model: Model,
    body: bytearray,
    header_length: int | None,
    priority: Priority,
    mark: Mark,
    started: float,
) -> Response:
    manifest = model.manifest
    decoded = decode_infer(
        body,
        header_length,
        manifest.inputs,
        manifest.outputs,
        model.limits.json_bytes,
        max_texts=model.max_batch_size if model.text_encoder is not None else 0,
    )
    if decoded.texts:
        decoded = replace(decoded, arrays=await _encode_texts(model, decoded.texts))
    model.index_limits.check(decoded.arrays)
    preprocess_s = time.perf_counter() - started
    mark.queue()
    answer = await model.submit(decoded.arrays, priority, mark)
    started = time.perf_counter()
    encoded = encode_infer(
        model.name,
        model.version,
        decoded,
        answer.outputs,
        manifest.outputs,
        labels=manifest.labels,
    )
    encode_s = time.perf_counter() - started
    model.metrics.answered(answer, preprocess_s, encode_s)
    timing = _timing(answer, preprocess_s, encode_s)
    return Response(encoded.body, headers={**encoded.headers, **timing})


async def predict(model: Model, request: Request, k: int | None) -> Response:
    """Answer with labels or numbers for an image file, or for one item in JSON or a form.

    ``k``: number of labels in the URL; None: the number in the body.
    """
    kind = content_type(request)
    if kind not in _FILE_TYPES and kind not in ("application/json", form.MEDIA_TYPE):
        raise UnsupportedMediaTypeError(
            f"Content-Type is {kind!r:.60}, /predict accepts {', '.join(IMAGE_TYPES)}, "
            f"{form.MEDIA_TYPE} with one file, or application/json"
        )
    priority = priority_of(request)
    body = bytes(await read_body(request, model.limits.body_bytes))
    started = time.perf_counter()
    mark = await model.fatal.enter(model.digest.of(f"predict {kind}", body))
    try:
        return await _predict(model, request, body, k, priority, mark, started)
    finally:
        mark.leave()


async def _predict(
    model: Model,
    request: Request,
    body: bytes,
    k: int | None,
    priority: Priority,
    mark: Mark,
    started: float,
) -> Response:
    kind = content_type(request)
    if kind in _FILE_TYPES:
        item = PredictRequest(image=body, text=None, inputs=None, top_k=DEFAULT_TOP_K)
    elif kind == form.MEDIA_TYPE:
        item = decode_form(body, request.headers["content-type"])
    else:
        item = decode_predict(body, model.limits.json_bytes)
    if k is not None:
        item = replace(item, top_k=k)
    arrays = await _preprocess(model, item)
    model.index_limits.check(arrays)  # also of a text, whose tokenizer may have more tokens
    preprocess_s = time.perf_counter() - started
    mark.queue()
    answer = await model.submit(arrays, priority, mark)
    started = time.perf_counter()
    output = answer.outputs[0][0]
    manifest = model.manifest
    fields = prediction(
        output, manifest.labels, manifest.activation, manifest.outputs[0].name, item.top_k
    )
    response = json_response({"model_name": model.name, **fields})
    encode_s = time.perf_counter() - started
    response.headers.update(_timing(answer, preprocess_s, encode_s))
    model.metrics.answered(answer, preprocess_s, encode_s)
    return response


def _timing(answer: Answer, preprocess_s: float, encode_s: float) -> dict[str, str]:
    """Return the Server-Timing header of an answer, and record the same phases as spans."""
    seconds = {
        "preprocess": preprocess_s,
        "queue": answer.queue_s,
        "compute": answer.compute_s,
        **{f"compute.stage-{number}": stage_s for number, stage_s in enumerate(answer.stage_s)},
        "encode": encode_s,
    }
    ms = {name: duration_s * 1e3 for name, duration_s in seconds.items()}
    tracing.phases(ms)
    return {SERVER_TIMING: server_timing(ms)}


async def _preprocess(model: Model, item: PredictRequest) -> list[np.ndarray]:
    """Return the input arrays ``[1, ...]`` of one item.

    Images are decoded and texts tokenized in threads, because large ones would block other
    requests. JSON is parsed in the event loop, so that only one parsed body is in memory at once.
    """
    manifest = model.manifest
    if item.image is not None:
        if manifest.image is None:
            raise RequestError(f"model {model.name} takes {_takes(manifest)}, got an image")
        image = await read_image(item.image, manifest.image, model.limits.image_pixels)
        return [image[None]]
    if item.text is not None:
        return list(await _encode_texts(model, [item.text]))
    if len(manifest.inputs) != 1:
        raise RequestError(
            f"model {model.name} has {len(manifest.inputs)} inputs; send them to /infer"
        )
    return [item_array(item.inputs, manifest.inputs[0])]


async def _encode_texts(model: Model, texts: Sequence[str]) -> tuple[np.ndarray, ...]:
    """Return the input arrays ``[len(texts), ...]`` of texts, tokenized in a thread."""
    encoder = model.text_encoder
    if encoder is None:
        raise RequestError(f"model {model.name} takes {_takes(model.manifest)}, got a text")
    limit = model.limits.text_bytes
    for text in texts:
        if (size := len(text.encode())) > limit:  # all of it would be tokenized, then truncated
            raise PayloadTooLargeError(
                f"the text is {size} bytes, this model reads at most {limit}"
            )
    encoded = await asyncio.to_thread(lambda: [encoder(text) for text in texts])
    return tuple(np.stack([item[spec.name] for item in encoded]) for spec in model.manifest.inputs)


def _takes(manifest: Manifest) -> str:
    if manifest.image is not None:
        return "an image file or {'image': base64}"
    if manifest.text is not None:
        return "{'text': ...}"
    return "{'inputs': ...}"

"""Codec of the prediction endpoint: one image, text or tensor → labels, or numbers.

{"image": "<base64>", "top_k": 3} ─┬► PredictRequest ──► (preprocess, program)
form with a file, or with a text ──┘
{"predictions": [{"label": "cat", "probability": 0.93}, ...]} ◄── softmax, sigmoid ◄┐
{"values": {"price": 3.2}}, or a list without names           ◄── none ◄────────────┴─ output
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cluster.activation import OutputActivation, probabilities
from cluster.errors import ProgramError, RequestError
from cluster.protocol.form import parse_form
from cluster.protocol.json_body import excerpt, read_object
from cluster.protocol.json_tensor import array_from_json
from cluster.tensors import TensorSpec

DEFAULT_TOP_K = 5
MAX_TOP_K = 1000
_KINDS = ("image", "text", "inputs")
_FILE_NAMES = ("image", "file")


@dataclass(frozen=True, slots=True, eq=False)
class PredictRequest:
    """Decoded prediction request: exactly one of ``image``, ``text`` and ``inputs`` is not None.

    ``image`` holds the bytes of an image file, ``inputs`` parsed JSON for :func:`item_array`.
    """

    image: bytes | None
    text: str | None
    inputs: Any
    top_k: int


def decode_predict(body: bytes, max_json_bytes: int) -> PredictRequest:
    """Decode the JSON body of a prediction.

    Fields: one of ``image`` (base64), ``text`` (string) and ``inputs`` (one item, nested or
    flat, without the batch dimension); ``top_k`` in 1..:data:`MAX_TOP_K`, default
    :data:`DEFAULT_TOP_K`. Raises RequestError for anything else, including unknown fields, and
    PayloadTooLargeError above ``max_json_bytes``.
    """
    message = read_object(body, max_json_bytes)
    unknown = sorted(message.keys() - {*_KINDS, "top_k"})
    if unknown:
        raise RequestError(
            f"unknown field: {excerpt(unknown[0])}; known fields: {', '.join(_KINDS)}, top_k"
        )
    present = [kind for kind in _KINDS if message.get(kind) is not None]
    if len(present) != 1:
        raise RequestError(
            f"expected one of {', '.join(_KINDS)}; got {' and '.join(present) or 'none of them'}"
        )
    text = message.get("text")
    if text is not None and not isinstance(text, str):
        raise RequestError(f"text must be a string, got {excerpt(text)}")
    image = message.get("image")
    return PredictRequest(
        image=None if image is None else _image_bytes(image),
        text=text,
        inputs=message.get("inputs"),
        top_k=_top_k_field(message.get("top_k", DEFAULT_TOP_K)),
    )


def decode_form(body: bytes, content_type: str) -> PredictRequest:
    """Decode a form (multipart/form-data) as a browser sends it.

    One file of any field name, or ``text``; ``top_k`` as in :func:`decode_predict`. Fields left
    empty beside it are ignored: a browser sends them, too. RequestError for anything else.
    ``content_type``: the whole header.
    """
    images, texts, k = [], [], DEFAULT_TOP_K
    for field in parse_form(body, content_type):
        if field.is_file or field.name in _FILE_NAMES:
            images.append(field.content)
        elif field.name == "text":
            texts.append(_utf8(field.content))
        elif field.name == "top_k":
            digits = field.content.decode("ascii", "replace").strip()
            if digits:
                k = _top_k_field(int(digits) if digits.isdecimal() and len(digits) < 9 else digits)
        else:
            raise RequestError(
                f"unknown field of the form: {field.name!r:.60}; known: a file, text, top_k"
            )
    if len(images) + len(texts) > 1:
        images, texts = [file for file in images if file], [text for text in texts if text]
    if len(images) + len(texts) != 1:
        raise RequestError(
            f"the form holds {len(images)} files and {len(texts)} texts; send one of either"
        )
    if images == [b""]:
        raise RequestError("the file of the form is empty; choose an image file")
    return PredictRequest(images[0] if images else None, texts[0] if texts else None, None, k)


def item_array(inputs: Any, spec: TensorSpec) -> np.ndarray:
    """Return ``inputs`` of a :class:`PredictRequest` as an array ``[1, *spec.item_shape]``.

    Raises RequestError when it does not match the spec's shape and datatype exactly.
    """
    # An item without dimensions is a bare number.
    data = inputs if spec.item_shape else [inputs]
    item = array_from_json(data, spec.item_shape or (1,), spec)
    return item.reshape(1, *spec.item_shape)


def prediction(
    output: np.ndarray, labels: Sequence[str], activation: OutputActivation, name: str, k: int
) -> dict[str, Any]:
    """Return the answer to one item, whose output ``name`` is ``[n]``.

    With labels, ``predictions`` has the ``k`` likeliest, see :func:`top_k`. Without activation the
    answer has all numbers under ``name``, by label, or as a list if there are no labels.
    ProgramError for an output that is not usable.
    """
    if labels and activation != "none":
        return {"predictions": top_k(output, labels, k, activation)}
    if not np.isfinite(output).all():
        raise ProgramError(f"{name} has numbers that are not finite: the output is not usable")
    numbers = output.tolist()
    return {name: dict(zip(labels, numbers, strict=True)) if labels else numbers}


def top_k(
    logits: np.ndarray, labels: Sequence[str], k: int, activation: OutputActivation = "softmax"
) -> list[dict[str, Any]]:
    """Return the ``k`` likeliest labels (all, if there are fewer), in descending order.

    ``logits`` is ``[labels]``, any float dtype. Probabilities follow the activation, softmax or
    sigmoid, in float64. Ties keep the order of ``labels``. Raises ProgramError when ``logits``
    differs from ``labels`` in length, or holds NaN or +infinity.
    """
    if logits.shape != (len(labels),):
        raise ProgramError(
            f"logits are {list(logits.shape)}, expected [{len(labels)}] for the labels"
        )
    scores = logits.astype(np.float64)
    highest = scores.max()
    if not np.isfinite(highest):
        raise ProgramError(f"the largest logit is {highest}: the model's output is not usable")
    shares = probabilities(scores, activation)
    order = np.argsort(-scores, kind="stable")[:k]
    return [{"label": labels[i], "probability": float(shares[i])} for i in order]


def _image_bytes(value: Any) -> bytes:
    if not isinstance(value, str):
        raise RequestError(f"image must be a base64 string, got {excerpt(value)}")
    try:
        data = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError(
            f"image is not base64 ({error}); send the file's bytes in standard base64, padded, "
            "without line breaks or a data: prefix"
        ) from None
    if not data:
        raise RequestError("image is empty, expected the bytes of an image file in base64")
    return data


def _utf8(content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise RequestError(f"text of the form is not UTF-8: {error}") from None


def _top_k_field(value: Any) -> int:
    if type(value) is not int or not 1 <= value <= MAX_TOP_K:
        raise RequestError(f"top_k must be an integer in 1..{MAX_TOP_K}, got {excerpt(value)}")
    return value

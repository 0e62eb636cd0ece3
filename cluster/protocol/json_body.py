"""JSON part of a request body → a dict, within limits.

    bytes ──► size ≤ limit? ──► nesting ≤ MAX_JSON_DEPTH? ──► orjson ──► dict

Both checks come before the parser, so that a hostile body costs no more than a scan.
"""

from __future__ import annotations

import re
import reprlib
from typing import Any

import numpy as np
import orjson

from cluster.errors import PayloadTooLargeError, RequestError

MAX_JSON_DEPTH = 32
"""Arrays and objects inside each other, at most. A tensor of n dimensions takes n + 3."""

# A string, or what is left of one that never ends. Everything in it is possessive and the closing
# quote is optional, so that the scan never starts over: it stays linear whatever is sent.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_STEP = np.zeros(256, np.int8)
_STEP[list(b"[{")] = 1
_STEP[list(b"]}")] = -1


def read_object(part: bytes | memoryview, max_bytes: int) -> dict[str, Any]:
    """Parse the JSON object in ``part``.

    Raises PayloadTooLargeError above ``max_bytes``, and RequestError for anything that is not
    one JSON object in UTF-8 of at most :data:`MAX_JSON_DEPTH` levels. NaN and Infinity are not
    JSON.
    """
    if len(part) > max_bytes:
        raise PayloadTooLargeError(
            f"the JSON part has {len(part)} bytes, the limit is {max_bytes}; "
            "send large tensors as binary data"
        )
    part = bytes(part)  # a copy of a view, made within the limit
    depth = _depth(part)
    if depth > MAX_JSON_DEPTH:
        raise RequestError(f"the JSON is nested {depth} levels deep, at most {MAX_JSON_DEPTH}")
    try:
        value = orjson.loads(part)
    except orjson.JSONDecodeError as error:
        hint = ""
        if b"NaN" in part or b"Infinity" in part:
            hint = "; NaN and Infinity are not JSON: send such tensors as binary data"
        raise RequestError(f"the JSON part cannot be parsed: {error}{hint}") from None
    if not isinstance(value, dict):
        raise RequestError(f"expected a JSON object, got {excerpt(value)}")
    return value


def excerpt(value: Any) -> str:
    """A client's value for an error message: its beginning, however large it is."""
    return f"{reprlib.repr(value)} ({_JSON_TYPES[type(value)]})"


_JSON_TYPES = {
    dict: "object",
    list: "array",
    str: "string",
    bool: "boolean",
    int: "integer",
    float: "number",
    type(None): "null",
}


def _depth(text: bytes) -> int:
    """Levels of arrays and objects in ``text``, counted without recursion.

    ``text`` need not be valid JSON. Within the limit the result may be an upper bound.
    """
    opened = text.count(b"[") + text.count(b"{")
    if opened <= MAX_JSON_DEPTH:
        return opened
    brackets = _STRING.sub(b"", text).translate(None, delete=_NOT_BRACKETS)
    if not brackets:
        return 0
    levels = _STEP[np.frombuffer(brackets, np.uint8)].cumsum(dtype=np.int32)
    return int(levels.max())

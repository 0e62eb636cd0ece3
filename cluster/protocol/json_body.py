"""JSON part of a request body → a dict, within limits.

    bytes ──► size ≤ limit? ──► orjson ──► dict

orjson rejects more than 1024 levels of nesting. It creates up to 46 bytes of Python objects per
byte of JSON (``[[[]]],[[[]]]``), so the size limit bounds the cost of a hostile body.
"""

from __future__ import annotations

import reprlib
from typing import Any

import orjson

from cluster.errors import PayloadTooLargeError, RequestError


def read_object(part: bytes | memoryview, max_bytes: int) -> dict[str, Any]:
    """Parse the JSON object in ``part``.

    Raises PayloadTooLargeError above ``max_bytes``, and RequestError for anything that is not
    one JSON object in UTF-8 of at most 1024 levels. NaN and Infinity are not JSON.
    """
    if len(part) > max_bytes:
        raise PayloadTooLargeError(
            f"the JSON part has {len(part)} bytes, the limit is {max_bytes}; "
            "send large tensors as binary data, and images as files"
        )
    part = bytes(part)  # copies a view; bounded by the limit
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
    """Return a shortened value and its JSON type, for an error message."""
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

"""BYTES tensors: texts in requests, classes in answers.

    binary  4 bytes of length, little-endian, then the element; one element after the other
    JSON    strings, flat or nested like the shape

https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any

from cluster.errors import RequestError
from cluster.protocol.binary_tensor import Body
from cluster.protocol.json_body import excerpt

DATATYPE = "BYTES"

_LENGTH = struct.Struct("<I")


def to_bytes(elements: Iterable[str]) -> bytes:
    """Return the binary form of a tensor of texts, each in UTF-8."""
    parts: list[bytes] = []
    for element in elements:
        encoded = element.encode()
        parts += (_LENGTH.pack(len(encoded)), encoded)
    return b"".join(parts)


def texts_from_bytes(body: Body, offset: int, size: int, count: int, name: str) -> list[str]:
    """Return the ``count`` texts in ``size`` bytes at ``offset`` of ``body``.

    The caller has checked that the body is long enough. RequestError if the lengths do not add up
    to ``size``, or a text is not UTF-8.
    """
    part = memoryview(body)[offset : offset + size]
    texts, at = [], 0
    for index in range(count):
        start = at + _LENGTH.size
        at = start + (_LENGTH.unpack_from(part, at)[0] if start <= size else 0)
        if at > size or start > size:
            raise RequestError(
                f"input {name!r}: its {size} bytes end within element {index} of {count}; each "
                "element is 4 bytes of length, little-endian, then the text"
            )
        try:
            texts.append(str(part[start:at], "utf-8"))
        except UnicodeDecodeError as error:
            raise RequestError(f"input {name!r}: element {index} is not UTF-8: {error}") from None
    if at != size:
        raise RequestError(
            f"input {name!r}: {size - at} of its {size} bytes follow the last of {count} elements"
        )
    return texts


def texts_from_json(data: Any, count: int, name: str) -> list[str]:
    """Return the ``count`` texts of JSON ``data``: a list of strings, or of lists with one each.

    RequestError for anything else.
    """
    if not isinstance(data, list) or len(data) != count:
        given = f"{len(data)} elements" if isinstance(data, list) else excerpt(data)
        raise RequestError(f"input {name!r}: data must be a list of {count} texts, got {given}")
    texts = []
    for index, element in enumerate(data):
        text = element[0] if isinstance(element, list) and len(element) == 1 else element
        if not isinstance(text, str):
            raise RequestError(
                f"input {name!r}: element {index} of data is {excerpt(element)}, BYTES takes text"
            )
        texts.append(text)
    return texts

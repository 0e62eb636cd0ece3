"""Files that PIL refuses and viewers show: a copy of the file that PIL reads, or None.

readable    the same pixels without metadata, except the orientation       for a refused header
completed   also with the end filled, if at most a tenth is missing        for a refused picture

Both work on the encoded bytes. They neither decode pixels nor change PIL's global settings.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from cluster.preprocess import jpeg_repair, png_repair

MAX_MISSING = 0.1
"""Largest share of a picture, at its end, that may be missing."""

_LZW_BITS = 12
"""Largest number of bits per pixel of a GIF that are one code each."""


def readable(data: bytes) -> bytes | None:
    """Return the file without damaged metadata, or None for formats that have none.

    JPEG and PNG keep what their pixels need and the orientation. A WebP file is filled to the size
    in its header, because PIL reads it whole.
    """
    if data.startswith(jpeg_repair.SIGNATURE):
        return jpeg_repair.readable(data)
    if data.startswith(png_repair.SIGNATURE):
        return png_repair.readable(data)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return _filled_webp(data)
    return None


def completed(data: bytes) -> bytes | None:
    """Return the file with its missing end filled, or None if that is impossible.

    A viewer shows the missing part as a plain area. Here a JPEG gets grey, a PNG repeats its last
    row, other formats get zeros. Check a JPEG with :func:`is_almost_whole` after decoding.
    """
    if data.startswith(jpeg_repair.SIGNATURE):
        return jpeg_repair.completed(data)
    if data.startswith(png_repair.SIGNATURE):
        return png_repair.completed(data, MAX_MISSING)
    if data.startswith(b"GIF8"):
        return _filled_gif(data)
    if data.startswith(b"BM"):
        return data + bytes(int(len(data) * MAX_MISSING / (1 - MAX_MISSING)))
    return None


def is_almost_whole(image: Image.Image) -> bool:
    """Whether a decoded picture has no larger grey area at its end than :data:`MAX_MISSING`.

    libjpeg leaves blocks without data at their middle level. Other formats are limited by
    :func:`completed` itself.
    """
    if image.format != "JPEG":
        return True
    pixels = np.asarray(image).reshape(image.height, -1)
    # CMYK is stored inverted.
    rows = np.flatnonzero((pixels != (127 if image.mode == "CMYK" else 128)).any(axis=1))
    last = int(rows[-1]) + 1 if len(rows) else 0
    return image.height - last <= MAX_MISSING * image.height


def _filled_webp(data: bytes) -> bytes | None:
    size = int.from_bytes(data[4:8], "little") + 8
    missing = size - len(data)
    return data + bytes(missing) if 0 < missing <= MAX_MISSING * size else None


def _filled_gif(data: bytes) -> bytes | None:
    """Return the file with up to :data:`MAX_MISSING` of the first frame's pixels set to colour 0.

    A code of zeros is colour 0 at every code width. Surplus codes are ignored.
    """
    at = _first_frame(data)
    if at is None:
        return None
    width, height = (int.from_bytes(data[at + i : at + i + 2], "little") for i in (5, 7))
    at += 10 + _table_bytes(data[at + 9]) + 1
    while at < len(data) and data[at]:
        at += 1 + data[at]
    if at < len(data):
        return None  # the frame has its end: something else is damaged
    codes = int(width * height * MAX_MISSING) * _LZW_BITS // 8
    blocks = (b"\xff" + bytes(255)) * (codes // 255 + 1)
    return data + bytes(at - len(data)) + blocks + b"\0;"


def _first_frame(data: bytes) -> int | None:
    """Return the position of the first image descriptor whose header is complete, or None."""
    at = 13 + (_table_bytes(data[10]) if len(data) > 10 else 0)
    while at + 10 < len(data):
        if data[at] == 0x2C:
            return at
        if data[at] != 0x21:
            return None
        at += 2  # an extension: its label, then blocks up to an empty one
        while at < len(data) and data[at]:
            at += 1 + data[at]
        at += 1
    return None


def _table_bytes(flags: int) -> int:
    """Return the bytes of the colour table that follows; 0 without one."""
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0

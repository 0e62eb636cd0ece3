"""A JPEG file without its metadata, and with its end.

marker segments ─ kept: tables, frame, JFIF, Adobe ─┐
                ─ dropped: comments, EXIF, ICC, …   ├→ file
scans, as they are ─────────────────────────────────┘ + end marker

ITU-T T.81, annex B: a marker is 0xFF and a code that is neither 0x00 nor 0xFF.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from cluster.preprocess.orientation import exif_of, orientation_in

SIGNATURE = b"\xff\xd8\xff"

_MARKER = re.compile(rb"\xff+([^\x00\xff])")
_IN_SCANS = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")
"""Marker other than the restarts within a scan."""

_END = b"\xff\xd9"
_START_OF_SCAN, _PROGRESSIVE, _JFIF, _EXIF, _ADOBE, _COMMENT = 0xDA, 0xC2, 0xE0, 0xE1, 0xEE, 0xFE
_ALONE = {0x01, *range(0xD0, 0xD9)}
"""Codes of markers without a segment."""

_NEEDED = {_JFIF: (b"JFIF\0", 14), _ADOBE: (b"Adobe", 12)}
"""Application segments that decide the colours: code → start, and bytes at least."""


def readable(data: bytes) -> bytes | None:
    """Return the file without application segments and comments, or None without a scan."""
    head = _head(data)
    return None if head is None else head[0] + data[head[1] :]


def completed(data: bytes) -> bytes | None:
    """Return :func:`readable` with an end marker; None if scans of a progressive file are missing.

    The decoder fills blocks without data with grey.
    """
    head = _head(data)
    if head is None:
        return None
    kept, start = head
    if bytes((0xFF, _PROGRESSIVE)) in kept and not _has_all_scans(data, start):
        return None
    return kept + data[start:] + _END


def _head(data: bytes) -> tuple[bytes, int] | None:
    """Return the segments to keep, and the position of the first scan; None without a scan."""
    kept, orientation = [b"\xff\xd8"], 1
    for code, segment, at in _segments(data):
        if code == _START_OF_SCAN:
            exif = exif_of(orientation)
            block = b"\xff\xe1" + (8 + len(exif)).to_bytes(2, "big") + b"Exif\0\0" + exif
            kept.insert(1, block if orientation > 1 else b"")
            return b"".join(kept), at
        if code == _EXIF and orientation == 1:
            orientation = orientation_in(segment[2:])
        start, least = _NEEDED.get(code, (b"", 0))
        application = _JFIF <= code <= 0xEF or code == _COMMENT
        if not application or (start and segment[2:].startswith(start) and len(segment) > least):
            kept.append(bytes((0xFF, code)) + segment)
    return None


def _segments(data: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Yield code, segment with its length, and position of each marker up to the first scan.

    Bytes between segments are skipped, as libjpeg does.
    """
    at = 2
    while (marker := _MARKER.search(data, at)) is not None:
        code, at = marker[1][0], marker.end()
        if code in _ALONE:
            continue
        length = int.from_bytes(data[at : at + 2], "big")
        segment = data[at : at + length]
        if length < 2 or len(segment) < length:
            return
        yield code, segment, marker.start()
        if code == _START_OF_SCAN:
            return
        at += length


def _has_all_scans(data: bytes, start: int) -> bool:
    """Whether the scans of a progressive file, by their headers, reach the last bit everywhere.

    A scan header names its components, its band of coefficients, and the lowest bit it has.
    """
    whole: dict[int, set[int]] = {}
    for marker in _IN_SCANS.finditer(data, start):
        header = data[marker.end() : marker.end() + 16]
        if marker[1][0] != _START_OF_SCAN or len(header) < 3:
            continue
        count = header[2]
        band = header[3 + 2 * count : 6 + 2 * count]
        if len(band) < 3:
            continue
        for component in header[3 : 3 + 2 * count : 2]:
            coefficients = whole.setdefault(component, set())
            if band[2] & 15 == 0:
                coefficients.update(range(band[0], min(band[1], 63) + 1))
    return bool(whole) and all(len(coefficients) == 64 for coefficients in whole.values())

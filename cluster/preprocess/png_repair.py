"""A PNG file without its metadata, and with its last rows.

chunks ─ kept: critical ones, transparency ─┬→ file
       ─ dropped: text, profiles, times, …  │
pixel data ─ inflated ─ missing rows ───────┘ deflated again

PNG specification, W3C 2003: chunks of length, type, data, CRC-32 of type and data. A decoder may
ignore every chunk whose type begins with a small letter.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from cluster.preprocess.orientation import exif_of, orientation_in

_Chunk = tuple[bytes, bytes, bytes]
"""Type, data, CRC."""

SIGNATURE = b"\x89PNG\r\n\x1a\n"

_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Colour type → samples per pixel."""

_TRANSPARENCY_BYTES = {0: (2,), 2: (6,), 3: range(1, 257)}
"""Colour type → valid lengths of its transparency chunk."""

_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2))
_INTERLACED = (*_PASSES, (0, 1, 1, 2))
"""Passes of Adam7: first column, first row, step of columns, step of rows."""

_REPEATED_ROW = 2
"""Filter type Up: each byte is the difference from the row above."""

_PIECE = 256
"""Bytes that are inflated at a time: those of a damaged piece are lost."""


def readable(data: bytes) -> bytes | None:
    """Return the file with the chunks that its pixels need, and the orientation; None without any.

    Chunks that may be ignored are dropped, as is a damaged transparency chunk.
    """
    kept = _kept(data)
    return None if kept is None else _file(kept)


def completed(data: bytes, max_missing: float) -> bytes | None:
    """Return :func:`readable` with the missing rows as copies of the last one.

    None if more than the share ``max_missing`` of the rows' bytes is missing. Memory: the encoded
    file twice.
    """
    kept = _kept(data)
    if kept is None or len(kept[0][1]) < 13 or kept[0][1][9] not in _SAMPLES:
        return None
    rows = list(_row_bytes(kept[0][1]))
    pixels = _whole_pixels(
        b"".join(body for kind, body, _ in kept if kind == b"IDAT"), rows, max_missing
    )
    if pixels is None:
        return None
    others = [chunk for chunk in kept if chunk[0] != b"IDAT"]
    return _file([*others, _chunk(b"IDAT", pixels)])


def _chunk(kind: bytes, body: bytes) -> _Chunk:
    return kind, body, struct.pack(">I", zlib.crc32(body, zlib.crc32(kind)))


def _file(chunks: list[_Chunk]) -> bytes:
    parts = [SIGNATURE]
    for kind, body, crc in (*chunks, _chunk(b"IEND", b"")):
        parts += [struct.pack(">I", len(body)), kind, body, crc]
    return b"".join(parts)


def _chunks(data: bytes) -> Iterator[_Chunk]:
    """Yield the chunks; the last one may be cut short, and then has its right CRC."""
    at = len(SIGNATURE)
    while at + 8 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        crc = data[at + 8 + length : at + 12 + length]
        yield (kind, body, crc) if len(crc) == 4 else _chunk(kind, body)
        if kind == b"IEND":
            return
        at += 12 + length


def _kept(data: bytes) -> list[_Chunk] | None:
    """Return the header first, then the other chunks to keep; None without header or pixels."""
    header, kept, orientation = None, list[_Chunk](), 1
    for chunk in _chunks(data):
        kind, body, _ = chunk
        if kind == b"IHDR":
            header = header or chunk
        elif kind == b"IEND":
            break
        elif not kind[0] & 0x20:  # a capital letter: critical
            kept.append(chunk)
        elif chunk != _chunk(kind, body):
            continue
        elif kind == b"eXIf":
            orientation = orientation_in(body)
        elif kind == b"tRNS" and header is not None and _is_transparency(body, header[1]):
            kept.append(chunk)
    if header is None or not any(kind == b"IDAT" for kind, _, _ in kept):
        return None
    exif = [_chunk(b"eXIf", exif_of(orientation))] if orientation > 1 else []
    return [header, *exif, *kept]


def _is_transparency(body: bytes, header: bytes) -> bool:
    return len(header) > 9 and len(body) in _TRANSPARENCY_BYTES.get(header[9], ())


def _row_bytes(header: bytes) -> Iterator[tuple[int, int]]:
    """Yield number and bytes of the rows of each pass, the byte of the filter type included."""
    width, height, bits, colour, _, _, interlaced = struct.unpack(">IIBBBBB", header[:13])
    for left, top, across, down in _INTERLACED if interlaced else ((0, 0, 1, 1),):
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        if columns > 0 and rows > 0:
            yield rows, 1 + (columns * bits * _SAMPLES[colour] + 7) // 8


def _whole_pixels(deflated: bytes, rows: list[tuple[int, int]], max_missing: float) -> bytes | None:
    """Return the deflated rows, the missing ones filled; None if too many bytes are missing."""
    total = sum(count * length for count, length in rows)
    inflate, deflate = zlib.decompressobj(-zlib.MAX_WBITS), zlib.compressobj(1)
    parts, done = list[bytes](), 0
    # The two bytes of zlib's header are skipped, and with them the checksum at the end.
    for start in range(2, len(deflated), _PIECE):
        piece = deflated[start : start + _PIECE]
        try:
            while done < total and (pixels := inflate.decompress(piece, total - done)):
                done += len(pixels)
                parts.append(deflate.compress(pixels))
                piece = inflate.unconsumed_tail
        except zlib.error:
            break
    if total - done > max_missing * total:
        return None
    parts += [deflate.compress(filler) for filler in _fillers(rows, done)]
    return b"".join((*parts, deflate.flush()))


def _fillers(rows: list[tuple[int, int]], start: int) -> Iterator[bytes]:
    """Yield rows that repeat the row above them, from byte ``start`` of the picture on."""
    first = 0
    for count, length in rows:
        skipped = min(max(start - first, 0), count * length)
        row = bytes((_REPEATED_ROW, *bytes(length - 1)))
        if skipped % length:
            yield row[skipped % length :]
        yield row * ((count * length - skipped) // length)
        first += count * length

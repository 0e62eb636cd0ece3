"""The orientation in an EXIF block, the only entry that is read.

Exif 2.3, CIPA DC-008: a TIFF header, then directories of 12-byte entries: tag, type, count, value.
Other entries may be damaged or of a wrong type; viewers ignore them.
"""

from __future__ import annotations

import struct

_TAG = 0x0112
_FORMATS = {3: "H", 4: "I"}
"""Type of the entry → its format: SHORT as in the standard, LONG as some programs write."""

_PREFIX = b"Exif\0\0"


def orientation_in(exif: bytes) -> int:
    """Return the orientation, 1 to 8, of the first directory; 1 (upright) if it has none."""
    tiff = exif.removeprefix(_PREFIX)
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None or len(tiff) < 10:
        return 1
    (start,) = struct.unpack_from(f"{order}I", tiff, 4)
    if start + 2 > len(tiff):
        return 1
    (count,) = struct.unpack_from(f"{order}H", tiff, start)
    for at in range(start + 2, min(start + 2 + 12 * count, len(tiff) - 11), 12):
        tag, kind = struct.unpack_from(f"{order}HH", tiff, at)
        if tag == _TAG and kind in _FORMATS:
            (value,) = struct.unpack_from(order + _FORMATS[kind], tiff, at + 8)
            return value if 1 <= value <= 8 else 1
    return 1


def exif_of(orientation: int) -> bytes:
    """Return an EXIF block with the orientation alone, without the ``Exif`` prefix."""
    return b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, _TAG, 3, 1, orientation, 0, 0)

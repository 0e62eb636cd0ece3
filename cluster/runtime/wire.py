"""A frame as bytes: a head that small arrays ride in, and the large arrays after it.

    head  ≤ 16 KiB   length of the facts (4 bytes) · facts · small arrays, each at a multiple of 64
    tail  messages   [the facts, if the head cannot hold them] · one per array that did not ride

Both sides work out from the facts alone which arrays ride, so a frame whose arrays all fit is
one message: a second one costs a hop as much again as the first.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import orjson

from cluster.runtime.transport import Frame

HEAD_BYTES = 16 * 1024
"""Size of the buffer a receiver keeps ready for the next head; a head may be shorter."""

_LENGTH = struct.Struct("<I")
_ALIGNED = 64


@dataclass(frozen=True)
class Facts:
    """All of a frame but its arrays' bytes."""

    number: int
    entered_at: float
    error: str | None
    shapes: tuple[tuple[np.dtype, tuple[int, ...]], ...]

    def offsets(self, length: int) -> tuple[list[int | None], int]:
        """Where each array lies in a head whose facts are ``length`` long, None for those that do
        not ride; and where the head ends."""
        end = _LENGTH.size + length
        if end > HEAD_BYTES:  # the facts themselves come after the head
            return [None] * len(self.shapes), _LENGTH.size
        found: list[int | None] = []
        for dtype, shape in self.shapes:
            start = -(-end // _ALIGNED) * _ALIGNED
            size = _size(dtype, shape)
            rides = start + size <= HEAD_BYTES
            found.append(start if rides else None)
            end = start + size if rides else end
        return found, end


def pack(frame: Frame) -> list[np.ndarray]:
    """The frame's messages as flat arrays of bytes: the head, then the tail.

    Those of large arrays share their memory.
    """
    shapes = tuple((array.dtype, array.shape) for array in frame.arrays)
    facts = Facts(frame.number, frame.entered_at, frame.error, shapes)
    written = orjson.dumps(
        (
            facts.number,
            facts.entered_at,
            facts.error,
            [(dtype.str, shape) for dtype, shape in shapes],
        )
    )
    offsets, end = facts.offsets(len(written))
    head = np.empty(end, np.uint8)
    _LENGTH.pack_into(head.data, 0, len(written))
    messages = [head]
    if fits(len(written)):
        head[_LENGTH.size : _LENGTH.size + len(written)] = np.frombuffer(written, np.uint8)
    else:
        messages.append(np.frombuffer(written, np.uint8))
    for array, offset in zip(frame.arrays, offsets, strict=True):
        data = array.reshape(-1).view(np.uint8)
        if offset is None:
            messages.append(data)
        else:
            head[offset : offset + len(data)] = data
    return messages


def facts_length(head: np.ndarray) -> int:
    """How many bytes the facts of the frame take."""
    (length,) = _LENGTH.unpack_from(head.data)
    return int(length)


def fits(length: int) -> bool:
    """Whether facts of this length are in the head, not after it."""
    return _LENGTH.size + length <= HEAD_BYTES


def read_facts(head: np.ndarray, length: int) -> Facts:
    """The facts in a head that holds them."""
    return parse_facts(head[_LENGTH.size : _LENGTH.size + length])


def parse_facts(written: np.ndarray) -> Facts:
    number, entered_at, error, shapes = orjson.loads(written.data)
    return Facts(
        number, entered_at, error, tuple((np.dtype(name), tuple(shape)) for name, shape in shapes)
    )


def arrays_of(
    head: np.ndarray, facts: Facts, length: int
) -> tuple[tuple[np.ndarray, ...], Sequence[np.ndarray]]:
    """The frame's arrays, and the flat bytes of those that the tail has yet to fill, in order.

    What rode shares the head's memory.
    """
    offsets, _ = facts.offsets(length)
    arrays, awaited = [], []
    for (dtype, shape), offset in zip(facts.shapes, offsets, strict=True):
        if offset is None:
            array = np.empty(shape, dtype)
            awaited.append(array.reshape(-1).view(np.uint8))
        else:
            array = head[offset : offset + _size(dtype, shape)].view(dtype).reshape(shape)
        arrays.append(array)
    return tuple(arrays), awaited


def _size(dtype: np.dtype, shape: tuple[int, ...]) -> int:
    size = dtype.itemsize
    for each in shape:
        size *= each
    return size

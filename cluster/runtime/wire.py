"""A frame as bytes: a head that small arrays ride in, and the large arrays after it.

    head  ≤ 16 KiB   length of the facts (4 bytes) · facts · small arrays, each at a multiple of 64
    tail  messages   [the facts, if the head cannot hold them] · one per array that did not ride,
                     unless these lie in memory that both sides share

Both sides work out from the facts alone which arrays ride, so a frame whose arrays all fit is
one message: a second one costs a hop as much again as the first.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import orjson

from cluster.runtime.lending import Buffers
from cluster.runtime.shared_memory import Borrower, Lender
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
    stage_s: tuple[float, ...] = ()
    slot: int | None = None
    """Of shared memory that the arrays that do not ride lie in; None: they are messages."""

    def written(self) -> bytes:
        """As :func:`parse_facts` reads them."""
        shapes = [(dtype.str, shape) for dtype, shape in self.shapes]
        return orjson.dumps(
            (self.number, self.entered_at, self.error, shapes, self.stage_s, self.slot)
        )

    def lies_in_slot(self, size: int) -> bool:
        """Whether an array of so many bytes is in the slot."""
        return self.slot is not None and size > HEAD_BYTES

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


def pack(frame: Frame, lender: Lender | None) -> list[np.ndarray]:
    """The frame's messages as flat arrays of bytes: the head, then the tail.

    Those of large arrays share their memory; with a lender, they go there instead.
    """
    shapes = tuple((array.dtype, array.shape) for array in frame.arrays)
    flat = [array.reshape(-1).view(np.uint8) for array in frame.arrays]
    facts = Facts(frame.number, frame.entered_at, frame.error, shapes, frame.stage_s)
    large = [data for data in flat if data.size > HEAD_BYTES]
    if lender is not None and large:
        # What rides is known only once the facts are written, and these name the slot: so it
        # holds what certainly does not ride.
        facts = replace(facts, slot=lender.lend(large))
    written = facts.written()
    offsets, end = facts.offsets(len(written))
    head = np.empty(end, np.uint8)
    _LENGTH.pack_into(head.data, 0, len(written))
    messages = [head]
    if fits(len(written)):
        head[_LENGTH.size : _LENGTH.size + len(written)] = np.frombuffer(written, np.uint8)
    else:
        messages.append(np.frombuffer(written, np.uint8))
    for data, offset in zip(flat, offsets, strict=True):
        if offset is not None:
            head[offset : offset + len(data)] = data
        elif not facts.lies_in_slot(data.size):
            messages.append(data)
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
    number, entered_at, error, shapes, stage_s, slot = orjson.loads(written.data)
    typed = tuple((np.dtype(name), tuple(shape)) for name, shape in shapes)
    return Facts(number, entered_at, error, typed, tuple(stage_s), slot)


def arrays_of(
    head: np.ndarray, facts: Facts, length: int, buffers: Buffers, borrower: Borrower | None
) -> tuple[tuple[np.ndarray, ...], Sequence[np.ndarray]]:
    """The frame's arrays, and the flat bytes of those that the tail has yet to fill, in order.

    What rode shares the head's memory. ``borrower``: needed if the facts name a slot.
    """
    offsets, _ = facts.offsets(length)
    sizes = [_size(dtype, shape) for dtype, shape in facts.shapes]
    shared: Iterator[np.ndarray] = iter(())
    if facts.slot is not None and borrower is not None:
        large = [size for size in sizes if facts.lies_in_slot(size)]
        shared = iter(borrower.arrays(facts.slot, large))
    arrays, awaited = [], []
    for (dtype, shape), size, offset in zip(facts.shapes, sizes, offsets, strict=True):
        if offset is not None:
            data = head[offset : offset + size]
        elif facts.lies_in_slot(size):
            data = next(shared)
        else:
            data = buffers.take(size)
            awaited.append(data)
        arrays.append(data.view(dtype).reshape(shape))
    return tuple(arrays), awaited


def _size(dtype: np.dtype, shape: tuple[int, ...]) -> int:
    size = dtype.itemsize
    for each in shape:
        size *= each
    return size

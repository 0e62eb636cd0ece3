"""Wire format of a frame: a head with the small arrays inline, then the large arrays.

    head  ≤ 16 KiB   length of the facts (4 bytes) · facts · inline arrays, each at a multiple of 64
    tail  messages   [the facts, if the head cannot hold them] · one per array that is not inline,
                     unless it lies in memory that both sides share

Both sides derive from the facts alone which arrays are inline, so a frame whose arrays all fit is
one message. A second message costs as much again as the first.
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
"""Size of the buffer that a receiver posts for the next head; a head may be shorter."""

_LENGTH = struct.Struct("<I")
_ALIGNED = 64


@dataclass(frozen=True)
class Facts:
    """Metadata of a frame: all but the bytes of its arrays."""

    number: int
    entered_at: float
    error: str | None
    shapes: tuple[tuple[np.dtype, tuple[int, ...]], ...]
    stage_s: tuple[float, ...] = ()
    refuses_input: bool = False
    slot: int | None = None
    """Slot of shared memory with the arrays that are not inline; None: they are messages."""

    def encoded(self) -> bytes:
        """Return the bytes that :func:`parse_facts` reads."""
        shapes = [(dtype.str, shape) for dtype, shape in self.shapes]
        facts = (self.number, self.entered_at, self.error, shapes, self.stage_s)
        return orjson.dumps((*facts, self.refuses_input, self.slot))

    def lies_in_slot(self, size: int) -> bool:
        """Whether an array of ``size`` bytes lies in the slot."""
        return self.slot is not None and size > HEAD_BYTES

    def offsets(self, length: int) -> tuple[list[int | None], int]:
        """Return each array's offset in a head with ``length`` bytes of facts, and the head's size.

        The offset is None for an array that is not inline.
        """
        end = _LENGTH.size + length
        if end > HEAD_BYTES:  # the facts follow the head
            return [None] * len(self.shapes), _LENGTH.size
        offsets: list[int | None] = []
        for dtype, shape in self.shapes:
            start = -(-end // _ALIGNED) * _ALIGNED
            size = _size(dtype, shape)
            inline = start + size <= HEAD_BYTES
            offsets.append(start if inline else None)
            end = start + size if inline else end
        return offsets, end


def pack(frame: Frame, lender: Lender | None) -> list[np.ndarray]:
    """Return the frame's messages as flat arrays of bytes: the head, then the tail.

    Messages of large arrays share the arrays' memory. With a lender, these arrays are copied into
    its slot instead.
    """
    shapes = tuple((array.dtype, array.shape) for array in frame.arrays)
    flat = [array.reshape(-1).view(np.uint8) for array in frame.arrays]
    facts = Facts(
        frame.number, frame.entered_at, frame.error, shapes, frame.stage_s, frame.refuses_input
    )
    large = [data for data in flat if data.size > HEAD_BYTES]
    if lender is not None and large:
        # Inline arrays are known only once the facts are encoded, and the facts name the slot.
        # The slot therefore holds the arrays that cannot be inline.
        facts = replace(facts, slot=lender.lend(large))
    encoded = facts.encoded()
    offsets, end = facts.offsets(len(encoded))
    head = np.empty(end, np.uint8)
    _LENGTH.pack_into(head.data, 0, len(encoded))
    messages = [head]
    if fits(len(encoded)):
        head[_LENGTH.size : _LENGTH.size + len(encoded)] = np.frombuffer(encoded, np.uint8)
    else:
        messages.append(np.frombuffer(encoded, np.uint8))
    for data, offset in zip(flat, offsets, strict=True):
        if offset is not None:
            head[offset : offset + len(data)] = data
        elif not facts.lies_in_slot(data.size):
            messages.append(data)
    return messages


def facts_length(head: np.ndarray) -> int:
    """Return the number of bytes of the frame's facts."""
    (length,) = _LENGTH.unpack_from(head.data)
    return int(length)


def fits(length: int) -> bool:
    """Whether facts of this length are in the head, not after it."""
    return _LENGTH.size + length <= HEAD_BYTES


def read_facts(head: np.ndarray, length: int) -> Facts:
    """Return the facts from a head that holds them."""
    return parse_facts(head[_LENGTH.size : _LENGTH.size + length])


def parse_facts(encoded: np.ndarray) -> Facts:
    """Return the facts from the bytes of :meth:`Facts.encoded`."""
    number, entered_at, error, shapes, stage_s, refuses, slot = orjson.loads(encoded.data)
    typed = tuple((np.dtype(name), tuple(shape)) for name, shape in shapes)
    return Facts(number, entered_at, error, typed, tuple(stage_s), refuses, slot)


def arrays_of(
    head: np.ndarray, facts: Facts, length: int, buffers: Buffers, borrower: Borrower | None
) -> tuple[tuple[np.ndarray, ...], Sequence[np.ndarray]]:
    """Return the frame's arrays, and flat views of those that the tail has yet to fill, in order.

    Inline arrays share the head's memory. ``borrower`` is required if the facts name a slot.
    """
    offsets, _ = facts.offsets(length)
    sizes = [_size(dtype, shape) for dtype, shape in facts.shapes]
    shared: Iterator[np.ndarray] = iter(())
    if facts.slot is not None and borrower is not None:
        large = [size for size in sizes if facts.lies_in_slot(size)]
        shared = iter(borrower.arrays(facts.slot, large))
    arrays, pending = [], []
    for (dtype, shape), size, offset in zip(facts.shapes, sizes, offsets, strict=True):
        if offset is not None:
            data = head[offset : offset + size]
        elif facts.lies_in_slot(size):
            data = next(shared)
        else:
            data = buffers.take(size)
            pending.append(data)
        arrays.append(data.view(dtype).reshape(shape))
    return tuple(arrays), pending


def _size(dtype: np.dtype, shape: tuple[int, ...]) -> int:
    size = dtype.itemsize
    for dimension in shape:
        size *= dimension
    return size

"""Shared memory for large arrays between two processes of one node: written once, read in place.

    sender    Lender.lend(arrays) → a free slot, grown if need be → its number, in the frame's head
    receiver  Borrower.arrays(number, …) → views of the slot → the last view is released → free

A slot is a memfd, which the receiver opens by the sender's /proc entry and maps once. It has no
name that could be left behind, and ends with the processes that hold it.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import secrets
import threading
import time
from collections.abc import Sequence

import numpy as np

from cluster.errors import TransportError
from cluster.runtime.lending import lent

ALIGNED = 64
"""Alignment of every array in a slot, in bytes."""

_FREE, _LENT, _MAPPED = 0, 1, 2
"""States of a slot, its first byte: the sender writes LENT, the receiver the others."""

_HEAD = mmap.PAGESIZE
_TOKEN_BYTES = 16
_POLL_S = 0.001
_OPEN = os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK  # O_NONBLOCK: the file might be a pipe


def layout(sizes: Sequence[int]) -> tuple[list[int], int]:
    """Return the offsets of arrays of these sizes in a slot, and the end of the last."""
    starts, end = [], _HEAD
    for size in sizes:
        starts.append(-(-end // ALIGNED) * ALIGNED)
        end = starts[-1] + size
    return starts, end


class Lender:
    """Slots of one sending process. Thread-safe.

    There are as many slots as were ever in flight at once, each as large as its largest content.
    """

    def __init__(self) -> None:
        self._slots: list[_Slot] = []
        self._closed = False
        self._choosing = threading.Lock()

    def lend(self, arrays: Sequence[np.ndarray]) -> int:
        """Copy flat arrays of bytes into a free slot; return its number for :class:`Borrower`.

        TransportError once the lender is closed.
        """
        starts, end = layout([array.size for array in arrays])
        slot = self._claim(end)
        for start, array in zip(starts, arrays, strict=True):
            slot.bytes[start : start + array.size] = array
        return slot.number

    def flush(self, timeout_s: float) -> None:
        """Wait until receivers have mapped all lent slots, for at most ``timeout_s`` seconds."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and any(s.bytes[0] == _LENT for s in self._slots):
            time.sleep(_POLL_S)

    def close(self) -> None:
        """Close all slots. Receivers keep the mappings that they have."""
        with self._choosing:
            self._closed = True
            for slot in self._slots:
                os.close(slot.number)
            self._slots.clear()

    def _claim(self, size: int) -> _Slot:
        with self._choosing:
            if self._closed:
                raise TransportError("the transport is closed")
            free = [slot for slot in self._slots if slot.bytes[0] == _FREE]
            # The smallest slot that is large enough, or else the largest one, to grow.
            fitting = [slot for slot in free if slot.bytes.size >= size]
            if fitting:
                slot = min(fitting, key=lambda slot: slot.bytes.size)
            elif free:
                slot = max(free, key=lambda slot: slot.bytes.size)
                slot.grow(size)
            else:
                slot = _Slot(size)
                self._slots.append(slot)
            slot.bytes[0] = _LENT
            return slot


class _Slot:
    """Sender's side of a slot; ``bytes``: all of it, flat."""

    def __init__(self, size: int) -> None:
        self.number = os.memfd_create("headrace-activations")
        self.grow(size)

    def grow(self, size: int) -> None:
        os.ftruncate(self.number, size)
        self.bytes = np.frombuffer(mmap.mmap(self.number, size), np.uint8)


class Borrower:
    """Mappings of one sender's slots. For one thread."""

    def __init__(self, sender_pid: int) -> None:
        self._pid = sender_pid
        self._mapped: dict[int, np.ndarray] = {}

    def arrays(self, number: int, sizes: Sequence[int]) -> list[np.ndarray]:
        """Return the flat arrays of bytes in slot ``number``, writeable.

        The sender reuses the slot once no view of any of them remains. Raises TransportError if
        the sender ended before the slot was first mapped here.
        """
        starts, end = layout(sizes)
        memory = self._mapped.get(number)
        if memory is None or memory.size < end:
            memory = self._mapped[number] = self._map(number)
        memory[0] = _MAPPED

        def release() -> None:
            memory[0] = _FREE

        content = lent(memory, release)
        return [content[start : start + size] for start, size in zip(starts, sizes, strict=True)]

    def _map(self, number: int) -> np.ndarray:
        try:
            return _map_descriptor(self._pid, number)
        except OSError as error:
            raise TransportError(f"process {self._pid} ended before its frame was read") from error


class Probe:
    """Token in shared memory by which processes determine whose memory they can map.

    ``address`` is published to the other processes, and each checks it by :func:`reaches`.
    """

    def __init__(self) -> None:
        token = secrets.token_bytes(_TOKEN_BYTES)
        self._descriptor = os.memfd_create("headrace-probe")
        os.write(self._descriptor, token)
        self.address = f"{os.getpid()}:{self._descriptor}:{token.hex()}"

    def close(self) -> None:
        os.close(self._descriptor)


def reaches(address: str) -> bool:
    """Whether this process can map the memory of the process that published the address.

    It cannot on another node, in another container, or as another user. The same descriptor of an
    unrelated local process leads to memory without the token.
    """
    pid, descriptor, token = address.split(":")
    with contextlib.suppress(OSError, ValueError):
        opened = os.open(f"/proc/{pid}/fd/{descriptor}", _OPEN)
        try:
            # Read, not mapped: the descriptor may be a file of any size.
            return os.pread(opened, _TOKEN_BYTES + 1, 0) == bytes.fromhex(token)
        finally:
            os.close(opened)
    return False


def _map_descriptor(pid: int, descriptor: int) -> np.ndarray:
    opened = os.open(f"/proc/{pid}/fd/{descriptor}", _OPEN)
    try:
        size = os.fstat(opened).st_size
        # All pages at once: page faults on reading would take several times as long.
        flags = mmap.MAP_SHARED | mmap.MAP_POPULATE
        return np.frombuffer(mmap.mmap(opened, size, flags), np.uint8)
    finally:
        os.close(opened)

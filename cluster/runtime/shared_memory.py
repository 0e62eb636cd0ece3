"""Large arrays between two processes of one node: written once, read where they lie.

    sender    Lender.lend(arrays) → a free slot, grown if need be → its number, in the frame's head
    receiver  Borrower.arrays(number, …) → views of the slot → the last one is gone → it is free

A slot is a memfd, which the receiver opens by the sender's /proc entry and maps once: it has no
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
"""Every array in a slot begins at a multiple of this."""

_FREE, _LENT, _TAKEN = 0, 1, 2
"""States of a slot, its first byte: LENT is written by the sender, the others by the receiver."""

_HEAD = mmap.PAGESIZE
_TOKEN_BYTES = 16
_POLL_S = 0.001
_OPEN = os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK  # a pipe, which it might be, would block


def laid_out(sizes: Sequence[int]) -> tuple[list[int], int]:
    """Where arrays of so many bytes begin in a slot, and where the last one ends."""
    starts, end = [], _HEAD
    for size in sizes:
        starts.append(-(-end // ALIGNED) * ALIGNED)
        end = starts[-1] + size
    return starts, end


class Lender:
    """The slots of one sending process. Thread-safe.

    There are as many as were ever on their way at once, each as large as the largest it held.
    """

    def __init__(self) -> None:
        self._slots: list[_Slot] = []
        self._closed = False
        self._choosing = threading.Lock()

    def lend(self, arrays: Sequence[np.ndarray]) -> int:
        """Copy flat arrays of bytes into a free slot; its number for :meth:`Borrower.arrays`.

        TransportError once it is closed.
        """
        starts, end = laid_out([array.size for array in arrays])
        slot = self._chosen(end)
        for start, array in zip(starts, arrays, strict=True):
            slot.bytes[start : start + array.size] = array
        return slot.number

    def flush(self, timeout_s: float) -> None:
        """Wait until receivers have mapped what they were lent, for that long at most."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and any(s.bytes[0] == _LENT for s in self._slots):
            time.sleep(_POLL_S)

    def close(self) -> None:
        """Nothing can be lent or opened any more; what receivers have mapped stays theirs."""
        with self._choosing:
            self._closed = True
            for slot in self._slots:
                os.close(slot.number)
            self._slots.clear()

    def _chosen(self, size: int) -> _Slot:
        with self._choosing:
            if self._closed:
                raise TransportError("the transport is closed")
            free = [slot for slot in self._slots if slot.bytes[0] == _FREE]
            # The smallest that is large enough, or else the largest, to grow.
            fitting = [slot for slot in free if slot.bytes.size >= size]
            if fitting:
                slot = min(fitting, key=lambda each: each.bytes.size)
            elif free:
                slot = max(free, key=lambda each: each.bytes.size)
                slot.grow(size)
            else:
                slot = _Slot(size)
                self._slots.append(slot)
            slot.bytes[0] = _LENT
            return slot


class _Slot:
    """Sender's side; ``bytes``: all of it, flat."""

    def __init__(self, size: int) -> None:
        self.number = os.memfd_create("headrace-activations")
        self.grow(size)

    def grow(self, size: int) -> None:
        os.ftruncate(self.number, size)
        self.bytes = np.frombuffer(mmap.mmap(self.number, size), np.uint8)


class Borrower:
    """What one process has mapped of one sender's slots. For one thread."""

    def __init__(self, sender_pid: int) -> None:
        self._pid = sender_pid
        self._mapped: dict[int, np.ndarray] = {}

    def arrays(self, number: int, sizes: Sequence[int]) -> list[np.ndarray]:
        """The flat arrays of bytes in slot ``number``, writeable; the sender may use the slot
        again once no view of any of them is left.

        Raises TransportError if the sender is gone before the slot was ever mapped here.
        """
        starts, end = laid_out(sizes)
        memory = self._mapped.get(number)
        if memory is None or memory.size < end:
            memory = self._mapped[number] = self._map(number)
        memory[0] = _TAKEN

        def returned() -> None:
            memory[0] = _FREE

        whole = lent(memory, returned)
        return [whole[start : start + size] for start, size in zip(starts, sizes, strict=True)]

    def _map(self, number: int) -> np.ndarray:
        try:
            return _mapped(self._pid, number)
        except OSError as error:
            raise TransportError(f"process {self._pid} is gone with what it sent") from error


class Probe:
    """Held while processes find out whose memory they can map.

    ``address`` goes to the others; each of them asks :func:`reaches` with it.
    """

    def __init__(self) -> None:
        token = secrets.token_bytes(_TOKEN_BYTES)
        self._descriptor = os.memfd_create("headrace-probe")
        os.write(self._descriptor, token)
        self.address = f"{os.getpid()}:{self._descriptor}:{token.hex()}"

    def close(self) -> None:
        os.close(self._descriptor)


def reaches(address: str) -> bool:
    """Whether this process can map the memory of the one whose probe has that address.

    Not on another node, in another container, or as another user: a number that another
    process has here leads to other memory, which does not hold the token.
    """
    pid, descriptor, token = address.split(":")
    with contextlib.suppress(OSError, ValueError):
        opened = os.open(f"/proc/{pid}/fd/{descriptor}", _OPEN)
        try:
            # Read, not mapped: the number may lead to a file of any size.
            return os.pread(opened, _TOKEN_BYTES + 1, 0) == bytes.fromhex(token)
        finally:
            os.close(opened)
    return False


def _mapped(pid: int, descriptor: int) -> np.ndarray:
    opened = os.open(f"/proc/{pid}/fd/{descriptor}", _OPEN)
    try:
        size = os.fstat(opened).st_size
        # All pages at once; one after the other, as they are read, takes several times as long.
        flags = mmap.MAP_SHARED | mmap.MAP_POPULATE
        return np.frombuffer(mmap.mmap(opened, size, flags), np.uint8)
    finally:
        os.close(opened)

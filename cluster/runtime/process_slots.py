"""Memory that the processes of a node share without waiting for each other.

    directory/NAME ─→ map_file → bytes, the same in every process
    directory/NAME ─→ ProcessSlots.claim → number of this process; free once the process ends

Each process writes only what belongs to its slot, and reads the rest. The kernel frees the slot of
a process that ends in any way, so a stopped or killed process blocks no other.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from collections.abc import Iterable
from pathlib import Path

_FLOCK = struct.Struct("hhqqi")
"""``struct flock`` of Linux on 64 bits: type, whence, start, length, process."""


def map_file(directory: Path, name: str, size: int) -> mmap.mmap:
    """Return the file's ``size`` bytes, shared with other processes; new bytes are zero.

    OSError if they cannot be allocated: a hole in the file would end a process that writes to it.
    """
    file = open_file(directory, name)
    try:
        os.posix_fallocate(file, 0, size)
        return mmap.mmap(file, size)
    finally:
        os.close(file)


def open_file(directory: Path, name: str) -> int:
    """Open a file that only this user can read, in a directory that is created if missing."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    return os.open(directory / name, flags, 0o600)


class ProcessSlots:
    """Numbered slots, each claimed by at most one process. One object per file and process.

    The file holds nothing but locks. It stays open: closing any descriptor of it frees all slots.
    """

    def __init__(self, directory: Path, name: str) -> None:
        self._file = open_file(directory, name)

    def claim(self, slots: Iterable[int]) -> int | None:
        """Claim the first of ``slots`` that no live process has; None without one."""
        return next((slot for slot in slots if self.take(slot)), None)

    def take(self, slot: int) -> bool:
        """Claim a slot; False if another process has it."""
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, slot)
        except OSError:
            return False
        return True

    def release(self, slot: int) -> None:
        """Release a slot of this process."""
        fcntl.lockf(self._file, fcntl.LOCK_UN, 1, slot)

    def is_live(self, slot: int) -> bool:
        """Whether another process that is alive has the slot."""
        request = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, slot, 1, 0)
        kind, *_ = _FLOCK.unpack(fcntl.fcntl(self._file, fcntl.F_GETLK, request))
        return bool(kind != fcntl.F_UNLCK)

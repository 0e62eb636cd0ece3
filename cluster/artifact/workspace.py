"""Directories that one process at a time fills, and that nobody has to clean up by hand.

    workspace(rooms, KEY) → rooms/KEY/, empty; rooms/KEY.lock held → both removed in the end
    sweep(rooms)          → removes what processes left that were killed on the way

The kernel lets go of a lock when its process dies, however it dies.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO


@contextmanager
def workspace(rooms: Path, key: str) -> Iterator[Path]:
    """An empty directory ``rooms/key``; another process that wants the same key waits.

    What is still in it afterwards is removed; rename out of it what is to stay.
    """
    rooms.mkdir(parents=True, exist_ok=True)
    room, file = rooms / key, rooms / f"{key}.lock"
    lock = _lock(file, fcntl.LOCK_EX)
    try:
        shutil.rmtree(room, ignore_errors=True)  # left by a process that was killed
        room.mkdir()
        yield room
    finally:
        _remove(room, file)
        lock.close()


def sweep(rooms: Path) -> None:
    """Remove every workspace in ``rooms`` whose lock nobody holds."""
    names = [path.name for path in rooms.iterdir()] if rooms.is_dir() else []
    for key in sorted({name.removesuffix(".lock") for name in names}):
        file = rooms / f"{key}.lock"
        try:
            lock = _lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue  # somebody works there
        _remove(rooms / key, file)
        lock.close()


def _lock(file: Path, how: int) -> TextIO:
    while True:
        lock = file.open("w")
        try:
            fcntl.flock(lock, how)
            # Who held it until now removed the file: a lock on that one excludes nobody.
            if os.path.samestat(os.fstat(lock.fileno()), file.stat()):
                return lock
        except FileNotFoundError:
            pass
        except BlockingIOError:
            lock.close()
            raise
        lock.close()


def _remove(room: Path, file: Path) -> None:
    """To be called with the lock held, the lock's file going last."""
    shutil.rmtree(room, ignore_errors=True)
    file.unlink(missing_ok=True)

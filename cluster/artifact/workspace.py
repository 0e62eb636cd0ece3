"""Exclusive work directories that need no manual clean-up.

    workspace(root, KEY) → root/KEY/, empty; root/KEY.lock held → both removed at the end
    sweep(root)          → removes directories of killed processes

The kernel releases a lock when its process ends, in any way.
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
def workspace(root: Path, key: str) -> Iterator[Path]:
    """Yield an empty directory ``root/key``; other processes with the same key wait.

    Remaining content is removed afterwards: rename results out of it.
    """
    root.mkdir(parents=True, exist_ok=True)
    directory, file = root / key, root / f"{key}.lock"
    lock = _lock(file, fcntl.LOCK_EX)
    try:
        shutil.rmtree(directory, ignore_errors=True)  # of a killed process
        directory.mkdir()
        yield directory
    finally:
        _remove(directory, file)
        lock.close()


def sweep(root: Path) -> None:
    """Remove every workspace in ``root`` whose lock is free."""
    names = [path.name for path in root.iterdir()] if root.is_dir() else []
    for key in sorted({name.removesuffix(".lock") for name in names}):
        file = root / f"{key}.lock"
        try:
            lock = _lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue  # in use
        _remove(root / key, file)
        lock.close()


def _lock(file: Path, operation: int) -> TextIO:
    while True:
        lock = file.open("w")
        try:
            fcntl.flock(lock, operation)
            # The previous holder has removed the file; a lock on a removed file excludes nothing.
            if os.path.samestat(os.fstat(lock.fileno()), file.stat()):
                return lock
        except FileNotFoundError:
            pass
        except BlockingIOError:
            lock.close()
            raise
        lock.close()


def _remove(directory: Path, file: Path) -> None:
    """Remove the directory, then the lock file; the caller holds the lock."""
    shutil.rmtree(directory, ignore_errors=True)
    file.unlink(missing_ok=True)

"""Files in /dev/shm that no process uses: what a cluster has left, whatever runs beside it."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import psutil

_DIRECTORY = Path("/dev/shm")


def orphans() -> set[Path]:
    """Return this user's files in /dev/shm that no running process has open or mapped."""
    listed = {path for path in _DIRECTORY.iterdir() if _is_ours(path)}
    used = set().union(*(used_by(process.pid) for process in psutil.process_iter()))
    return {path for path in listed - used if path.exists()}


def used_by(pid: int) -> set[Path]:
    """Return the files in /dev/shm that a process has open or mapped; none if it has ended."""
    process = Path(f"/proc/{pid}")
    used: set[str] = set()
    with suppress(OSError):  # of another user, or ended
        used |= {line.split(maxsplit=5)[-1] for line in (process / "maps").read_text().splitlines()}
        for descriptor in (process / "fd").iterdir():
            with suppress(FileNotFoundError):  # closed meanwhile
                used.add(os.readlink(descriptor))
    return {Path(name) for name in used if name.startswith(f"{_DIRECTORY}/")}


def _is_ours(path: Path) -> bool:
    try:
        return path.stat().st_uid == os.getuid()
    except FileNotFoundError:
        return False  # removed meanwhile

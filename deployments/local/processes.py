"""The processes of one local cluster, however deep their ancestry and whoever orphaned them.

A process belongs to a cluster if its environment names it (see :data:`MARK`), if its command
line names the cluster's run directory, or if it has a file open there. The environment alone
would do but for Ray's habit of renaming processes, which can overwrite it in /proc; all those
keep a log file open in the run directory. By that, too, a process is known that was killed and is
taken apart: the kernel frees its memory first, and with it all else.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MARK = "HEADRACE_CLUSTER"
"""Environment variable that holds the id of the cluster a process was started for."""

_GRACE_S = 0.5  # between asking processes to end and ending them; Ray's GCS never hurries
_KILL_S = 10.0  # a killed process that is still there after this is stuck in the kernel
_POLL_S = 0.05


@dataclass(frozen=True)
class Process:
    """One running process: its id and the kernel's name for it."""

    pid: int
    name: str


def find(cluster_id: str, run_dir: Path) -> list[Process]:
    """The running processes of the cluster, this one excepted; zombies do not count."""
    mark = f"{MARK}={cluster_id}".encode()
    inside = f"{run_dir}/"
    return [process for process in _own_processes() if _belongs(process.pid, mark, inside)]


def end(cluster_id: str, run_dir: Path) -> list[Process]:
    """End every process of the cluster; returns those that could not be ended."""
    started = time.monotonic()
    asked: set[int] = set()
    while found := find(cluster_id, run_dir):
        elapsed = time.monotonic() - started
        if elapsed > _GRACE_S + _KILL_S:
            return found
        # Searched again after each round: what is being ended may still start others.
        for process in found:
            if elapsed > _GRACE_S:
                _signal(process.pid, signal.SIGKILL)
            elif process.pid not in asked:
                asked.add(process.pid)
                _signal(process.pid, signal.SIGTERM)
        time.sleep(_POLL_S)
    return []


def is_ending(pid: int) -> bool:
    """Whether a process has no memory any more: it was killed, and its files close next."""
    try:
        return (Path("/proc") / str(pid) / "statm").read_text().startswith("0 ")
    except OSError:
        return True  # it has ended


def open_files(pid: int) -> Iterator[str]:
    """What a process has open: paths, and ``socket:[INODE]``; ``OSError`` if it has ended."""
    for fd in (Path("/proc") / str(pid) / "fd").iterdir():
        try:
            yield os.readlink(fd)
        except FileNotFoundError:
            continue  # closed meanwhile; the others still count


def _own_processes() -> Iterator[Process]:
    """The processes of this user, without the one that asks."""
    user, this = os.getuid(), os.getpid()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == this:
            continue
        try:
            if entry.stat().st_uid == user:
                yield Process(int(entry.name), (entry / "comm").read_text().strip())
        except OSError:
            continue  # ended meanwhile


def _belongs(pid: int, mark: bytes, inside: str) -> bool:
    return (
        mark in _memory(pid, "environ").split(b"\0")
        or inside.encode() in _memory(pid, "cmdline")
        or _has_open(pid, inside)
    )


def _memory(pid: int, what: str) -> bytes:
    """``environ`` or ``cmdline`` of a process; empty if it may not be looked into or has ended.

    Also of one that is ending: the kernel frees a killed process's memory first, for tens of
    milliseconds, and closes its files and ports after that.
    """
    try:
        return (Path("/proc") / str(pid) / what).read_bytes()
    except OSError:
        return b""


def _has_open(pid: int, inside: str) -> bool:
    try:
        return any(target.startswith(inside) for target in open_files(pid))
    except OSError:
        return False  # ended meanwhile, or a process that may not be looked into


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return  # ended by itself meanwhile, which is what was wanted

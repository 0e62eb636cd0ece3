"""Processes of one local cluster, orphans included.

    processes of this user → environment, command line, open files name the cluster? → Process

A process belongs to a cluster if its environment names it (see :data:`MARK`), if its command
line names the cluster's run directory, or if it has a file open there. The environment is not
enough: Ray renames its processes, which can overwrite it. Renamed processes keep a log file open
in the run directory. A killed process is found by its files, too: the kernel frees its memory,
with environment and command line, first.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

MARK = "HEADRACE_CLUSTER"
"""Environment variable with the id of a process's cluster."""

_GRACE_S = 0.5  # between SIGTERM and SIGKILL; Ray's GCS takes long to end
_KILL_S = 10.0  # a killed process that still exists after this is stuck in the kernel
_POLL_S = 0.05


@dataclass(frozen=True)
class Process:
    """Running process: its id and its name in the kernel."""

    pid: int
    name: str


def find(cluster_id: str, run_dir: Path) -> list[Process]:
    """Return the running processes of the cluster without this one; zombies do not count."""
    processes = []
    for process in _members(cluster_id, run_dir):
        with contextlib.suppress(psutil.NoSuchProcess):
            processes.append(Process(process.pid, process.name()))
    return processes


def end(cluster_id: str, run_dir: Path) -> list[Process]:
    """End every process of the cluster; return those that could not be ended."""
    started = time.monotonic()
    terminated: set[int] = set()
    while members := _members(cluster_id, run_dir):
        elapsed = time.monotonic() - started
        if elapsed > _GRACE_S + _KILL_S:
            return find(cluster_id, run_dir)
        # The search is repeated, because a process that is ending may still start others.
        for process in members:
            if elapsed > _GRACE_S:
                _signal(process, signal.SIGKILL)
            elif process.pid not in terminated:
                terminated.add(process.pid)
                _signal(process, signal.SIGTERM)
        time.sleep(_POLL_S)
    return []


def is_ending(pid: int) -> bool:
    """Return whether a process has no memory left: it was killed, and its files close next."""
    try:
        return int(psutil.Process(pid).memory_info().vms) == 0
    except psutil.NoSuchProcess:
        return True


def open_files(pid: int) -> Iterator[str]:
    """Yield the open files of a process: paths, and ``socket:[INODE]``; OSError if it has ended.

    psutil leaves out deleted files, such as a log that was rotated away.
    """
    for fd in (Path("/proc") / str(pid) / "fd").iterdir():
        try:
            yield os.readlink(fd)
        except FileNotFoundError:
            continue  # closed meanwhile; the others still count


def _members(cluster_id: str, run_dir: Path) -> list[psutil.Process]:
    mark = f"{MARK}={cluster_id}".encode()
    return [process for process in _user_processes() if _belongs(process, mark, f"{run_dir}/")]


def _user_processes() -> Iterator[psutil.Process]:
    """Yield the processes of this user without this process."""
    user, this = os.getuid(), os.getpid()
    for process in psutil.process_iter():
        try:
            if process.pid != this and process.uids().effective == user:
                yield process
        except psutil.Error:
            continue  # ended meanwhile


def _belongs(process: psutil.Process, mark: bytes, inside: str) -> bool:
    return (
        mark in _environment(process.pid).split(b"\0")
        or inside in _command_line(process)
        or _has_open(process.pid, inside)
    )


def _environment(pid: int) -> bytes:
    """Return a process's environment; empty if it is not readable or the process has ended.

    psutil stops at the first empty entry, which a renamed process may have before the mark.
    """
    try:
        return (Path("/proc") / str(pid) / "environ").read_bytes()
    except OSError:
        return b""


def _command_line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # not readable, or without memory
        return ""


def _has_open(pid: int, inside: str) -> bool:
    try:
        return any(target.startswith(inside) for target in open_files(pid))
    except OSError:
        return False  # ended meanwhile, or not readable


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    """Send a signal, unless the process has ended or its id belongs to another one by now."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(number)

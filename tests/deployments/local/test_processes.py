"""Killed processes: they count until the kernel has released their files and ports."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from deployments.local import ports, processes

# 256 MiB in pages of 4 KiB: taking them back keeps the kernel busy for tens of milliseconds, in
# which the process has no memory any more but still has its files.
HOLDER = """
import ctypes, socket, sys, time
PR_SET_THP_DISABLE = 41
ctypes.CDLL(None).prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)
listener = socket.socket()
listener.bind(("127.0.0.1", 0))
listener.listen()
memory = bytearray(1 << 28)
memory[::4096] = bytes([1]) * (1 << 16)
log = open(sys.argv[1] + "/log", "w")
print(listener.getsockname()[1], flush=True)
time.sleep(60)
"""


@contextmanager
def killed_holder(run_dir: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Return a process of the cluster that was just killed, and its port."""
    command = [sys.executable, "-c", HOLDER, str(run_dir)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        process.kill()
        yield process, port


def test_killed_process_counts_until_files_are_closed(tmp_path: Path) -> None:
    with killed_holder(tmp_path) as (process, port):
        deadline = time.monotonic() + 10
        while holders := processes.find("0123456789abcdef", tmp_path):
            assert [holder.pid for holder in holders] == [process.pid]
            assert time.monotonic() < deadline
        holder = ports.holder(port)
    # Its socket may take a moment longer than its files; nobody is named for that.
    assert holder is None or "pid" not in holder


def test_require_free_waits_for_port_of_killed_process(tmp_path: Path) -> None:
    with killed_holder(tmp_path) as (_, port):
        ports.require_free(port, "HTTP")
        assert ports.holder(port) is None


def test_current_process_is_not_ending() -> None:
    assert not processes.is_ending(os.getpid())
    with pytest.raises(ProcessLookupError):
        os.kill(2**22 + 1, 0)  # no such process: above the kernel's highest id
    assert processes.is_ending(2**22 + 1)


def test_end_kills_marked_process_that_ignores_sigterm(tmp_path: Path) -> None:
    code = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        "print(flush=True); time.sleep(60)"
    )
    environment = {**os.environ, processes.MARK: "fedcba9876543210"}
    with subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert [p.pid for p in processes.find("fedcba9876543210", tmp_path)] == [process.pid]
        assert processes.end("fedcba9876543210", tmp_path) == []
        assert process.wait() == -signal.SIGKILL

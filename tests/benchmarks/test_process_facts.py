"""What is read of a process is what it was started with."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from benchmarks import proc
from benchmarks.startup import now_s

CHILD = "import sys; held = bytearray(64 << 20); print('up', flush=True); sys.stdin.read()"


@pytest.fixture
def child():
    with subprocess.Popen(
        [sys.executable, "-c", CHILD],
        env={"PROC_TEST": "marked"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


def test_memory_start_and_environment_of_a_child(child) -> None:
    assert now_s() - 20 < proc.started_at_s(child.pid) <= now_s()
    assert proc.pss_mib(child.pid) > 64
    assert proc.peak_rss_mib(child.pid) > 64
    assert proc.environment(child.pid, "PROC_TEST") == "marked"
    assert proc.environment(child.pid, "PROC") is None
    assert proc.parent(child.pid) == os.getpid()
    assert proc.has_mapped(child.pid, "libc.so")
    assert not proc.has_mapped(child.pid, "libtorch_python")


def test_cpu_time_grows_with_work() -> None:
    before = proc.cpu_s(os.getpid())
    end = time.process_time() + 0.1
    while time.process_time() < end:
        pass
    assert proc.cpu_s(os.getpid()) - before >= 0.05


def test_a_process_that_has_ended_raises_os_error(child) -> None:
    child.kill()
    child.wait()
    with pytest.raises(OSError, match=str(child.pid)):
        proc.pss_mib(child.pid)

"""Facts of a process, equal to those of its start."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import psutil
import pytest

from benchmarks.contenders import process_facts
from benchmarks.load.startup import now_s

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
    assert now_s() - 20 < process_facts.started_at_s(child.pid) <= now_s()
    assert process_facts.pss_mib(child.pid) > 64
    assert process_facts.peak_rss_mib(child.pid) > 64
    assert process_facts.environment(child.pid, "PROC_TEST") == "marked"
    assert process_facts.environment(child.pid, "PROC") is None
    assert process_facts.parent(child.pid) == os.getpid()
    assert process_facts.has_mapped(child.pid, "libc.so")
    assert not process_facts.has_mapped(child.pid, "libtorch_python")


def test_cpu_time_grows_with_work() -> None:
    before = process_facts.cpu_s(os.getpid())
    end = time.process_time() + 0.1
    while time.process_time() < end:
        pass
    assert process_facts.cpu_s(os.getpid()) - before >= 0.05


def test_ended_process_raises_psutil_error(child) -> None:
    child.kill()
    child.wait()
    with pytest.raises(psutil.Error, match=str(child.pid)):
        process_facts.pss_mib(child.pid)

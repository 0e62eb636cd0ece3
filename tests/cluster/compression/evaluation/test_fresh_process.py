"""Measuring process: its output is forwarded, a hanging one is killed, and a failed program is not
a failed evaluation."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from cluster.compression.evaluation import fresh_process
from cluster.compression.evaluation.fresh_process import measure_in_process
from cluster.compression.evaluation.measure import PROGRESS_INTERVAL_S
from cluster.compression.evaluation.one_program import CANNOT_RUN, ProgramResult, Task
from cluster.config.recipe import Recipe
from cluster.errors import CompressionError

Play = Callable[..., ProgramResult]

WITH_TASK = """
import json, os, subprocess, sys, time
task = json.load(open(sys.argv[1]))
def answer(**found): open(task["result"], "w").write(json.dumps(found))
"""

WITH_CHILD = """
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
print("measure ", os.getpid(), child.pid, flush=True)
"""


@pytest.fixture
def play(
    tmp_path: Path, tiny_recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> Play:
    """Return ``play(script, lines, program=...)``: runs a script in place of the evaluation."""

    def run(script: str, lines: list[str], program: str | None = "cpu-x86/aoti") -> ProgramResult:
        command = (sys.executable, "-c", WITH_TASK + script)
        monkeypatch.setattr(fresh_process, "_command", lambda module: command)
        task = Task(
            artifact=tmp_path,
            program=program,
            recipe=tiny_recipe("fresh", "bf16"),
            baseline_weights=tmp_path / "baseline",
            baseline_outputs=tmp_path / "outputs",
            result=tmp_path / "found.json",
        )
        return measure_in_process(task, tmp_path, lines.append)

    return run


def running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def have_ended(pids: list[int]) -> bool:
    """Return whether all processes end within 5 s, because signals take effect later."""
    for _ in range(100):
        if not any(map(running, pids)):
            return True
        time.sleep(0.05)
    return False


def test_only_progress_lines_are_forwarded(play: Play) -> None:
    lines: list[str] = []
    script = """
print("a warning", flush=True)
print("~ measure  half of it", flush=True)
print("measure  all of it", flush=True)
answer(static=[1, 8])
"""
    assert play(script, lines) == ProgramResult(static=(1, 8))
    assert lines == ["~ measure  half of it", "measure  all of it"]


@pytest.mark.parametrize("hang", ["time.sleep(300)", "os.close(1); os.close(2); time.sleep(300)"])
@pytest.mark.fault("a program hangs in its evaluation")
def test_hanging_program_fails_and_leaves_no_orphan(
    play: Play, monkeypatch: pytest.MonkeyPatch, hang: str
) -> None:
    monkeypatch.setattr(fresh_process, "SILENCE_S", 2.0)
    lines: list[str] = []
    started = time.monotonic()
    result = play(f"{WITH_CHILD}\n{hang}", lines)
    assert time.monotonic() - started < 100
    assert result.failed == "its process hung: it printed nothing for 2 s and was killed"
    assert result.program is None
    pids = [int(pid) for pid in lines[0].split()[1:]]
    assert len(pids) == 2
    assert have_ended(pids)


def test_child_with_open_output_delays_nothing_and_is_ended(play: Play) -> None:
    lines: list[str] = []
    started = time.monotonic()
    assert play(f"{WITH_CHILD}\nanswer(static=[4])", lines) == ProgramResult(static=(4,))
    assert time.monotonic() - started < 100
    assert have_ended([int(pid) for pid in lines[0].split()[1:]])


def test_invalid_utf8_is_forwarded_with_replacements(play: Play) -> None:
    lines: list[str] = []
    script = """
os.write(1, b"measure  \\xff\\n")
print("measure  done", flush=True)
answer()
"""
    assert play(script, lines) == ProgramResult()
    assert lines == ["measure  \N{REPLACEMENT CHARACTER}", "measure  done"]


def test_slow_program_that_reports_progress_is_not_killed(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fresh_process, "SILENCE_S", 2.0)
    lines: list[str] = []
    script = """
for step in range(10):
    time.sleep(0.3)
    print("~ measure ", step, flush=True)
answer()
"""
    assert play(script, lines) == ProgramResult()
    assert len(lines) == 10


def test_interrupted_job_ends_its_measuring_process(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    pids: list[int] = []

    class Interrupting(list[str]):
        def append(self, line: str) -> None:
            pids.extend(int(pid) for pid in line.split()[1:])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        play(f"{WITH_CHILD}\ntime.sleep(300)", Interrupting())
    assert len(pids) == 2
    assert have_ended(pids)


def test_killed_job_ends_its_measuring_process() -> None:
    child = """
import os, time
from cluster.compression.evaluation import one_program
one_program.end_with_parent()
print(os.getpid(), flush=True)
time.sleep(300)
"""
    parent = f"""
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", {child!r}], process_group=0)
time.sleep(300)
"""
    command = [sys.executable, "-c", parent]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        assert running(pid)
        process.kill()
        process.wait()
        assert have_ended([pid])


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (
            "raise KeyError('threshold')",
            "exit status 1 and without a result: KeyError: 'threshold'",
        ),
        ("os._exit(7)", "exit status 7 and without a result: it printed nothing"),
        ("sys.exit(0)", "exit status 0 and without a result"),
        (f"os.kill(os.getpid(), {int(signal.SIGSEGV)})", "its process was killed by SIGSEGV"),
    ],
)
def test_unexpected_exit_is_failure_of_program(play: Play, script: str, reason: str) -> None:
    lines: list[str] = []
    assert reason in play(script, lines).failed
    if "KeyError" in script:  # the log has the traceback
        assert any("Traceback" in line for line in lines)


@pytest.mark.parametrize("script", ["raise KeyError('x')", "os._exit(7)", "time.sleep(300)"])
def test_unexpected_exit_of_baseline_fails_evaluation(
    play: Play, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    monkeypatch.setattr(fresh_process, "SILENCE_S", 2.0)
    with pytest.raises(CompressionError, match="could not be evaluated: its process"):
        play(script, [], program=None)


def test_exit_with_cannot_run_fails_evaluation(play: Play) -> None:
    script = f"print('the data is gone', flush=True); sys.exit({CANNOT_RUN})"
    with pytest.raises(CompressionError, match=r"could not be evaluated[^*]*the data is gone"):
        play(script, [])


def test_silence_limit_far_exceeds_progress_interval() -> None:
    assert fresh_process.SILENCE_S >= 10 * PROGRESS_INTERVAL_S

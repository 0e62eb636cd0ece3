"""One evaluation process: started, read line by line, and killed when it is silent too long.

Task ─ task.json ─→ python -m ...evaluation.one_program ─ lines ─→ out
                                                        ↘ found.json → ProgramResult
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pydantic import BaseModel

from cluster.compression.evaluation.one_program import CANNOT_RUN, ProgramResult, Task
from cluster.errors import CompressionError
from cluster.progress import MOVING, Print

SILENCE_S = 1800.0
"""Seconds without a line after which the process counts as hung. It reports progress at least
every minute, unless one run of the model, or reading the data, takes longer."""

_POLL_S = 1.0
"""Seconds between two checks whether a silent process still runs."""

_TAIL = 20
"""Number of last lines that are quoted of a failed process."""


@dataclass(frozen=True)
class ProcessEnd:
    """End of a process. ``failure`` is None if it wrote its result."""

    failure: str | None
    cannot_run: bool
    tail: list[str]
    """Last lines of its output, besides its measurements."""


def measure_in_process(task: Task, scratch: Path, out: Print) -> ProgramResult:
    """Measure in a fresh process. A process that dies or hangs is the program's failure.

    ``scratch``: directory for the task's file. CompressionError, with the process's last lines, if
    the fault is outside the program, or the task measures only the baseline.
    """
    ended = run_in_process("one_program", task, task.result, scratch, out)
    if ended.failure is None:
        return ProgramResult.model_validate_json(task.result.read_text())
    if ended.cannot_run or task.program is None:
        raise CompressionError(
            f"the artifact could not be evaluated: {ended.failure}\n{''.join(ended.tail)}"
        )
    for line in ended.tail:
        out(f"measure  {line.rstrip()}")
    return ProgramResult(failed=ended.failure, died=True)


def run_in_process(
    module: str, task: BaseModel, result: Path, scratch: Path, out: Print
) -> ProcessEnd:
    """Run a module of this package on a task, in its own process, to its end.

    A process without output for :data:`SILENCE_S` is killed, with its children.
    """
    file = scratch / "task.json"
    file.write_text(task.model_dump_json())
    result.unlink(missing_ok=True)
    process = subprocess.Popen(
        [*_command(module), file],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",  # native code may print any bytes
        process_group=0,  # a new group, so that its children end with it
    )
    tail: list[str] = []
    status = None
    try:
        _listen(process, tail, out)
        status = process.wait(SILENCE_S)
    except (queue.Empty, subprocess.TimeoutExpired):
        failure = f"its process hung: it printed nothing for {SILENCE_S:g} s and was killed"
    else:
        if status == 0 and result.is_file():
            return ProcessEnd(None, False, tail)
        failure = _failure(status, tail)
    finally:
        _end(process)
    return ProcessEnd(failure, status == CANNOT_RUN, tail)


def _command(module: str) -> tuple[str, ...]:
    # -P: the working directory may have a package with the name of one of ours.
    return (sys.executable, "-P", "-m", f"{__package__}.{module}")


def _listen(process: subprocess.Popen[str], tail: list[str], out: Print) -> None:
    """Pass the process's measurements to ``out`` until it ends or closes its output.

    The last other lines go to ``tail``. queue.Empty after :data:`SILENCE_S` without a line.
    """
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(process.stdout, lines), daemon=True).start()
    last_line = time.monotonic()
    while True:
        try:
            line = lines.get(timeout=_POLL_S)
        except queue.Empty:
            if process.poll() is not None:
                return  # its children may hold its output open for ever
            if time.monotonic() - last_line > SILENCE_S:
                raise
            continue
        if line is None:
            return
        last_line = time.monotonic()
        if line.removeprefix(MOVING).startswith("measure"):
            out(line.rstrip())
        else:
            tail[:] = [*tail[1 - _TAIL :], line]


def _read(stream: IO[str], lines: queue.SimpleQueue[str | None]) -> None:
    try:
        with stream:
            for line in stream:
                lines.put(line)
    finally:
        lines.put(None)


def _failure(status: int, tail: list[str]) -> str:
    if status < 0:
        return f"its process was killed by {signal.Signals(-status).name}"
    last = tail[-1].strip() if tail else "it printed nothing"
    return f"its process ended with exit status {status} and without a result: {last}"


def _end(process: subprocess.Popen[str]) -> None:
    """Kill the process, if it still runs, and its children."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()

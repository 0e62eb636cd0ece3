"""One evaluation process: started, listened to, and ended when it is silent for too long.

Task ─ task.json ─→ python -m ...evaluation.one_program ─ lines ─→ out
                                                        ↘ found.json → Found
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

from cluster.compression.evaluation.one_program import CANNOT_RUN, Found, Task
from cluster.errors import CompressionError
from cluster.progress import MOVING, Print

SILENCE_S = 1800.0
"""Seconds without a line after which the process hangs. It says at least every minute how far it
is, unless one run of the model, or reading the data, takes longer than that."""

_LOOK_S = 1.0
"""Seconds between two looks whether the process is still there, while it says nothing."""

_TAIL = 20
"""Lines that are quoted of a process that failed."""


@dataclass(frozen=True)
class Ended:
    """How a process ended. ``failure`` is None where it left its result."""

    failure: str | None
    cannot_run: bool
    tail: list[str]
    """The last lines that it said besides what it measured."""


def measured_in_process(task: Task, scratch: Path, out: Print) -> Found:
    """What the process found; how it died, or that it hung, is the program's failure.

    ``scratch``: where the task is written. CompressionError, with the process's last lines, if
    the evaluation cannot run whatever the program, or the task has no program that could be at
    fault.
    """
    ended = in_process("one_program", task, task.result, scratch, out)
    if ended.failure is None:
        return Found.model_validate_json(task.result.read_text())
    if ended.cannot_run or task.program is None:
        raise CompressionError(
            f"the artifact could not be evaluated: {ended.failure}\n{''.join(ended.tail)}"
        )
    for line in ended.tail:
        out(f"measure  {line.rstrip()}")
    return Found(failed=ended.failure)


def in_process(module: str, task: BaseModel, result: Path, scratch: Path, out: Print) -> Ended:
    """Run a module of this package on a task, in a process of its own, to its end.

    It says nothing for :data:`SILENCE_S`: it is ended, with all that it started.
    """
    file = scratch / "task.json"
    file.write_text(task.model_dump_json())
    result.unlink(missing_ok=True)
    process = subprocess.Popen(
        [*_command(module), file],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",  # native code prints what it likes
        process_group=0,  # of its own, so that what it started ends with it
    )
    tail: list[str] = []
    status = None
    try:
        _listen(process, tail, out)
        status = process.wait(SILENCE_S)
    except (queue.Empty, subprocess.TimeoutExpired):
        failure = f"its process hung: it said nothing for {SILENCE_S:g} s and was ended"
    else:
        if status == 0 and result.is_file():
            return Ended(None, False, tail)
        failure = _failure(status, tail)
    finally:
        _end(process)
    return Ended(failure, status == CANNOT_RUN, tail)


def _command(module: str) -> tuple[str, ...]:
    # -P: the folder that this runs in may have a package named as one of ours.
    return (sys.executable, "-P", "-m", f"{__package__}.{module}")


def _listen(process: subprocess.Popen[str], tail: list[str], out: Print) -> None:
    """Pass on what it measures until it ends or closes its output.

    The last other lines go to ``tail``. queue.Empty after :data:`SILENCE_S` without a line.
    """
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(process.stdout, lines), daemon=True).start()
    heard = time.monotonic()
    while True:
        try:
            line = lines.get(timeout=_LOOK_S)
        except queue.Empty:
            if process.poll() is not None:
                return  # what it has started may hold its output for ever
            if time.monotonic() - heard > SILENCE_S:
                raise
            continue
        if line is None:
            return
        heard = time.monotonic()
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
        return f"its process was ended by {signal.Signals(-status).name}"
    said = tail[-1].strip() if tail else "it said nothing"
    return f"its process ended with exit status {status} and without a result: {said}"


def _end(process: subprocess.Popen[str]) -> None:
    """End the process, if it still runs, and all that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()

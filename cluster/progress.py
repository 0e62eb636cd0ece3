"""Progress of a long job as lines of text that survive a log file and a terminal alike.

A job prints one line per change. Lines of a bar that is still moving start with
:data:`MOVING`, so that whoever shows them on a terminal can draw them over each other.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO

MOVING = "~ "
"""Begins a line that the next line replaces on a terminal."""

Print = Callable[[str], None]


def to_stdout(line: str) -> None:
    """Write one line at once."""
    print(line, flush=True)


class Bar:
    """A bar over ``total`` units of work, printed at most every half second."""

    def __init__(self, title: str, total: int, out: Print, interval_s: float = 0.5) -> None:
        self._title = title
        self._total = max(total, 1)
        self._out = out
        self._interval_s = interval_s
        self._started = self._printed = time.monotonic()

    def update(self, done: int, note: str = "") -> None:
        """Say that ``done`` units are finished; ``note`` follows the bar."""
        now = time.monotonic()
        if done < self._total and now - self._printed < self._interval_s:
            return
        self._printed = now
        filled = round(20 * done / self._total)
        bar = "█" * filled + "░" * (20 - filled)
        line = (
            f"{self._title} {bar} {done}/{self._total} {now - self._started:.0f}s {note}".rstrip()
        )
        self._out(line if done >= self._total else MOVING + line)


class Terminal:
    """Shows a job's lines: on a terminal, moving lines replace each other; else all are kept."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._redraw = self._stream.isatty()

    def show(self, line: str) -> None:
        moving = line.startswith(MOVING)
        text = line.removeprefix(MOVING)
        if self._redraw:
            self._stream.write("\r\x1b[2K" + text + ("" if moving else "\n"))
        elif not moving:
            self._stream.write(text + "\n")
        self._stream.flush()

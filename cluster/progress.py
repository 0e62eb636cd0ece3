"""Progress of a long job as lines of text, for log files and terminals alike.

A job prints one line per change. Lines of an unfinished bar start with :data:`MOVING`, so that a
terminal can draw them over each other.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO

MOVING = "~ "
"""Prefix of a line that the next one replaces on a terminal."""

Print = Callable[[str], None]


def to_stdout(line: str) -> None:
    """Print one line and flush."""
    print(line, flush=True)


class Bar:
    """Bar over ``total`` units of work, printed at most every half second."""

    def __init__(self, title: str, total: int, out: Print, interval_s: float = 0.5) -> None:
        self._title = title
        self._total = max(total, 1)
        self._out = out
        self._interval_s = interval_s
        self._started = self._printed = time.monotonic()

    def update(self, done: int, note: str = "") -> None:
        """Report ``done`` finished units; ``note`` follows the bar."""
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
    """Display of a job's lines; moving lines are redrawn on a terminal, and dropped elsewhere."""

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

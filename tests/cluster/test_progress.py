"""A job's progress reads well in a log file and moves on a terminal."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from io import StringIO

from cluster.progress import MOVING, Bar, Terminal


def test_bar_fills_and_ends_with_fixed_line() -> None:
    lines: list[str] = []
    bar = Bar("train", 4, lines.append, interval_s=0)
    for done in range(1, 5):
        bar.update(done, f"loss {done}")
    assert [line.startswith(MOVING) for line in lines] == [True, True, True, False]
    assert lines[0] == f"{MOVING}train █████░░░░░░░░░░░░░░░ 1/4 0s loss 1"
    assert lines[-1] == "train ████████████████████ 4/4 0s loss 4"


def test_fast_bar_prints_only_its_end() -> None:
    lines: list[str] = []
    bar = Bar("train", 1000, lines.append, interval_s=60)
    for done in range(1, 1001):
        bar.update(done)
    assert lines == ["train ████████████████████ 1000/1000 0s"]


def test_empty_bar_can_end() -> None:
    lines: list[str] = []
    Bar("train", 0, lines.append).update(1)
    assert lines == ["train ████████████████████ 1/1 0s"]


def test_log_file_omits_moving_lines() -> None:
    stream = StringIO()
    terminal = Terminal(stream)
    for line in ("data", MOVING + "half", "whole"):
        terminal.show(line)
    assert stream.getvalue() == "data\nwhole\n"


def test_terminal_redraws_moving_lines() -> None:
    program = (
        "from cluster.progress import MOVING, Terminal\n"
        "terminal = Terminal()\n"
        "for line in (MOVING + 'half', 'whole', 'next'): terminal.show(line)\n"
    )
    ours, theirs = pty.openpty()
    try:
        subprocess.run([sys.executable, "-c", program], stdout=theirs, check=True)
        shown = os.read(ours, 4096).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert shown == "\r\x1b[2Khalf\r\x1b[2Kwhole\r\n\r\x1b[2Knext\r\n"

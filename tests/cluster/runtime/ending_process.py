"""Process with requests in flight that ends while it computes them.

python ending_process.py DIRECTORY HOW DIGEST...    computes all in one batch

HOW: abort, kill, exit, "abort after first" (request is answered), or hold: until its input closes.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.runtime.fatal_requests import FatalRequests

NAME = "model-0123456789abcdef"
READY = "computing"


def end_while_computing(directory: Path, how: str, *digests: int) -> None:
    """Run a process to its end."""
    ended = subprocess.run(_command(directory, how, digests), check=False, timeout=60)
    endings = {"abort": -signal.SIGABRT, "kill": -signal.SIGKILL, "exit": 0}
    assert ended.returncode == endings[how.partition(" ")[0]]


@contextmanager
def computing(directory: Path, *digests: int) -> Iterator[None]:
    """Run a process that computes during the block."""
    process = subprocess.Popen(
        _command(directory, "hold", digests), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline().decode().strip() == READY
        yield
        process.communicate(timeout=60)


def _command(directory: Path, how: str, digests: tuple[int, ...]) -> list[str]:
    return [sys.executable, __file__, str(directory), how, *map(str, digests)]


async def _compute(directory: Path, how: str, digests: list[int]) -> None:
    requests = FatalRequests(directory, NAME)
    requests.record_crashes()
    marks = [await requests.enter(digest) for digest in digests]
    for mark in marks:
        mark.queue()
        mark.begin()
    if how == "abort after first":
        marks[0].end()
        marks[0].leave()
        os.abort()
    if how == "abort":
        os.abort()
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "hold":
        print(READY, flush=True)
        sys.stdin.read()
    for mark in marks:
        mark.end()
        mark.leave()


if __name__ == "__main__":
    asyncio.run(_compute(Path(sys.argv[1]), sys.argv[2], [int(text) for text in sys.argv[3:]]))

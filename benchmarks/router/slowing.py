"""A process that gets a share of its time, as on a machine that is busy with something else."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_RUN_S = 0.002


@contextmanager
def slowed(pid: int, factor: int) -> Iterator[None]:
    """Let the process run for one of every ``factor`` times 2 ms."""
    over = threading.Event()

    def go_on() -> None:
        with suppress(ProcessLookupError):
            while not over.wait(_RUN_S):
                os.kill(pid, signal.SIGSTOP)
                over.wait(_RUN_S * (factor - 1))
                os.kill(pid, signal.SIGCONT)

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()

"""Slowing of a process: it gets a share of its time, as on a busy machine."""

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
    ended = threading.Event()

    def stop_and_continue() -> None:
        with suppress(ProcessLookupError):
            while not ended.wait(_RUN_S):
                os.kill(pid, signal.SIGSTOP)
                ended.wait(_RUN_S * (factor - 1))
                os.kill(pid, signal.SIGCONT)

    thread = threading.Thread(target=stop_and_continue)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()

"""Observation of a server's start: time of the first 200, and compilers that run until then.

Two threads run from before the start: one sends requests until the first 200, one lists processes.
"""

from __future__ import annotations

import http.client
import threading
import time
import urllib.request
from collections.abc import Callable
from types import TracebackType
from typing import Self

import psutil

from benchmarks.contenders import process_facts
from benchmarks.contenders.contender import Endpoint
from benchmarks.harness.errors import BenchmarkError
from deployments.local.processes import MARK

COMPILERS = frozenset({"g++", "gcc", "c++", "cc", "cc1plus", "cc1", "clang", "clang++", "ld", "as"})

_REQUEST_EVERY_S = 0.02
_LIST_EVERY_S = 0.1  # a compiler runs for seconds
_READY_S = 180.0


def now_s() -> float:
    """Return the seconds since boot, the clock of :func:`process_facts.started_at_s`."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class StartupWatch:
    """Watch of one start: enter it before the server is started, then :meth:`wait_ready`."""

    def __init__(self, endpoint: Endpoint, body: bytes) -> None:
        if endpoint.ready_url is not None:
            self._request = urllib.request.Request(endpoint.ready_url)
        else:
            self._request = urllib.request.Request(
                endpoint.url, body, endpoint.headers, method="POST"
            )
        self._over = threading.Event()
        self._ready = threading.Event()
        self._ready_at_s = 0.0
        self._compilers: dict[int, tuple[str, str | None]] = {}
        self._threads = [threading.Thread(target=run) for run in (self._send, self._list)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def wait_ready(self, require_alive: Callable[[], None]) -> float:
        """Return when the first 200 came, in seconds since boot; BenchmarkError after 180 s."""
        deadline = time.monotonic() + _READY_S
        while not self._ready.wait(timeout=1.0):
            require_alive()
            if time.monotonic() > deadline:
                raise BenchmarkError(
                    f"{self._request.full_url} was not ready after {_READY_S:.0f} s"
                )
        return self._ready_at_s

    def compilers(self, mark: str) -> tuple[str, ...]:
        """Return the compilers seen so far among the processes with that mark."""
        return tuple(sorted({name for name, marked in self._compilers.values() if marked == mark}))

    def _send(self) -> None:
        while not self._over.is_set():
            try:
                with urllib.request.urlopen(self._request, timeout=5) as answer:
                    if answer.status == 200:
                        self._ready_at_s = now_s()
                        self._ready.set()
                        return
            except (OSError, http.client.HTTPException):
                pass  # not up yet: refused, or an error status; wait_ready has the deadline
            self._over.wait(_REQUEST_EVERY_S)

    def _list(self) -> None:
        while not self._over.wait(_LIST_EVERY_S):
            for process in psutil.process_iter():
                try:
                    if (name := process.name()) in COMPILERS:
                        mark = process_facts.environment(process.pid, MARK)
                        self._compilers[process.pid] = (name, mark)
                except psutil.Error:
                    continue  # ended meanwhile, or another user's

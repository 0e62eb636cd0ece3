"""Latency and throughput of calls: one after the other, and several at once.

once()  → again and again            → median milliseconds
batch() → from as many threads as calls are in flight → end times → items per second
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from statistics import median

from benchmarks.harness.errors import BenchmarkError

LEAST = 5
"""Fewest timed calls, however long they take."""

_WARM_UP = 2  # per thread


def latency_ms(once: Callable[[], object], seconds: float) -> float:
    """Return the median of calls one after the other, for ``seconds``."""
    for _ in range(_WARM_UP):
        once()
    times_ms: list[float] = []
    end = time.perf_counter() + seconds
    while (started := time.perf_counter()) < end or len(times_ms) < LEAST:
        once()
        times_ms.append((time.perf_counter() - started) * 1e3)
    return median(times_ms)


def items_per_s(batch: Callable[[], object], items: int, in_flight: int, seconds: float) -> float:
    """Return the throughput of calls of ``items`` each, from ``in_flight`` threads."""
    ended: list[float] = []
    failed: list[Exception] = []
    lock = threading.Lock()
    over = False

    def call() -> None:
        nonlocal over
        try:
            while not over:
                batch()
                with lock:
                    ended.append(time.perf_counter())
                    over = over or enough(ended, in_flight, seconds)
        except Exception as error:  # noqa: BLE001 - raised below
            failed.append(error)
            over = True

    threads = [threading.Thread(target=call) for _ in range(in_flight)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    return rate(ended, items, in_flight)


def enough(ended: Sequence[float], in_flight: int, seconds: float) -> bool:
    """Return whether calls that ended at those times fill ``seconds`` after the warm-up."""
    skipped = _WARM_UP * in_flight
    return len(ended) > skipped + LEAST and ended[-1] - ended[skipped] >= seconds


def rate(ended: Sequence[float], items: int, in_flight: int) -> float:
    """Return the items per second from the end of the warm-up until calls stop starting.

    The last calls are left out: with fewer in flight beside them, they end faster.
    """
    steady = ended[_WARM_UP * in_flight : len(ended) - (in_flight - 1)]
    if len(steady) < 2:
        raise BenchmarkError(f"{len(ended)} calls are too few for a rate; give more --seconds")
    return (len(steady) - 1) * items / (steady[-1] - steady[0])

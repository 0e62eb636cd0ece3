"""How fast something answers: one call after the other, and several at once.

once()  → again and again            → median milliseconds
batch() → from as many threads as may be under way → when each ended → items per second
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from statistics import median

from benchmarks.errors import BenchmarkError

LEAST = 5
"""Calls that are timed at least, however long they take."""

_WARM_UP = 2  # per thread


def latency_ms(once: Callable[[], object], seconds: float) -> float:
    """Median of calls one after the other, for ``seconds``."""
    for _ in range(_WARM_UP):
        once()
    taken: list[float] = []
    end = time.perf_counter() + seconds
    while (started := time.perf_counter()) < end or len(taken) < LEAST:
        once()
        taken.append((time.perf_counter() - started) * 1e3)
    return median(taken)


def items_per_s(batch: Callable[[], object], items: int, under_way: int, seconds: float) -> float:
    """Throughput of calls of ``items`` each, from ``under_way`` threads for ``seconds``."""
    ended: list[float] = []
    failed: list[Exception] = []
    full = threading.Lock()
    over = False

    def go_on() -> None:
        nonlocal over
        try:
            while not over:
                batch()
                with full:
                    ended.append(time.perf_counter())
                    over = over or enough(ended, under_way, seconds)
        except Exception as error:  # noqa: BLE001 - raised again below
            failed.append(error)
            over = True

    threads = [threading.Thread(target=go_on) for _ in range(under_way)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    return rate(ended, items, under_way)


def enough(ended: Sequence[float], under_way: int, seconds: float) -> bool:
    """Whether calls that ended at those times fill ``seconds`` behind the warm-up."""
    skipped = _WARM_UP * under_way
    return len(ended) > skipped + LEAST and ended[-1] - ended[skipped] >= seconds


def rate(ended: Sequence[float], items: int, under_way: int) -> float:
    """Items per second between the first end behind the warm-up and the last with all under way.

    What ends after the feeding has ended, ends faster, with fewer beside it.
    """
    steady = ended[_WARM_UP * under_way : len(ended) - (under_way - 1)]
    if len(steady) < 2:
        raise BenchmarkError(f"{len(ended)} calls are too few to tell a rate; give more --seconds")
    return (len(steady) - 1) * items / (steady[-1] - steady[0])

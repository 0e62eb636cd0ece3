"""Shared lock: concurrent shared holders, or one exclusive holder."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from cluster.runtime.shared_lock import SharedLock


def test_shared_holders_overlap() -> None:
    lock = SharedLock()
    meeting = threading.Barrier(3, timeout=5)

    def hold() -> int:
        with lock.shared():
            return meeting.wait()  # until all three are inside

    with ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(hold) for _ in range(3)]
    assert sorted(future.result() for future in futures) == [0, 1, 2]


def test_exclusive_holder_excludes_shared_holders() -> None:
    lock, inside, rounds = SharedLock(), set[int](), [0] * 4
    ended = threading.Event()

    def hold_repeatedly(number: int) -> None:
        while not ended.is_set():
            with lock.shared():
                inside.add(number)
                time.sleep(0.0001)
                inside.remove(number)
            rounds[number] += 1

    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(hold_repeatedly, number) for number in range(4)]
        try:
            for _ in range(50):
                with lock.exclusive():
                    assert not inside
                    time.sleep(0.0005)
                    assert not inside
                before = list(rounds)
                deadline = time.monotonic() + 5
                while any(now <= then for now, then in zip(rounds, before, strict=True)):
                    assert time.monotonic() < deadline
                    time.sleep(0.0001)
        finally:
            ended.set()
        for future in futures:
            future.result()


def test_error_inside_block_releases_lock() -> None:
    lock = SharedLock()
    with pytest.raises(KeyError), lock.shared():
        raise KeyError
    with pytest.raises(KeyError), lock.exclusive():
        raise KeyError
    with lock.shared():
        pass

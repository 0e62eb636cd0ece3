"""Many hold the lock together, and nobody beside one who holds it alone."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from cluster.runtime.shared_lock import SharedLock


def test_many_hold_it_together() -> None:
    lock = SharedLock()
    meeting = threading.Barrier(3, timeout=5)

    def hold() -> int:
        with lock.shared():
            return meeting.wait()  # until all three are inside

    with ThreadPoolExecutor(3) as pool:
        arrived = [pool.submit(hold) for _ in range(3)]
    assert sorted(each.result() for each in arrived) == [0, 1, 2]


def test_one_holds_it_alone_and_all_others_after_that() -> None:
    lock, inside, passed = SharedLock(), set[int](), [0] * 4
    ended = threading.Event()

    def hold_again_and_again(number: int) -> None:
        while not ended.is_set():
            with lock.shared():
                inside.add(number)
                time.sleep(0.0001)
                inside.remove(number)
            passed[number] += 1

    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(hold_again_and_again, number) for number in range(4)]
        try:
            for _ in range(50):
                with lock.exclusive():
                    assert not inside
                    time.sleep(0.0005)
                    assert not inside
                before = list(passed)
                deadline = time.monotonic() + 5
                while any(now <= then for now, then in zip(passed, before, strict=True)):
                    assert time.monotonic() < deadline
                    time.sleep(0.0001)
        finally:
            ended.set()
        for each in running:
            each.result()


def test_a_block_that_raises_leaves_it_as_it_was() -> None:
    lock = SharedLock()
    with pytest.raises(KeyError), lock.shared():
        raise KeyError
    with pytest.raises(KeyError), lock.exclusive():
        raise KeyError
    with lock.shared():
        pass

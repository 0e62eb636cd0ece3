"""Priority queue: interactive items first, each kind in order, no starvation."""

from __future__ import annotations

import threading
import time
from queue import Empty

import pytest

from cluster.runtime import priority_queue
from cluster.runtime.priority_queue import Priority, PriorityQueue


def test_interactive_items_precede_batch_items() -> None:
    queue: PriorityQueue[str] = PriorityQueue()
    queue.put("b1", Priority.BATCH)
    queue.put("i1")
    queue.put("b2", Priority.BATCH)
    queue.put("i2", Priority.INTERACTIVE)
    assert [queue.get() for _ in range(4)] == ["i1", "i2", "b1", "b2"]
    assert queue.empty()


def test_overdue_batch_item_precedes_later_items(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(priority_queue.WAIT_LIMIT_S, Priority.BATCH, 0.05)
    queue: PriorityQueue[str] = PriorityQueue()
    queue.put("before")
    queue.put("batch", Priority.BATCH)
    queue.put("after")
    time.sleep(0.06)
    assert [queue.get() for _ in range(3)] == ["before", "batch", "after"]


def test_get_waits_for_item_or_timeout() -> None:
    queue: PriorityQueue[int] = PriorityQueue()
    with pytest.raises(Empty):
        queue.get(0)
    started = time.monotonic()
    with pytest.raises(Empty):
        queue.get(0.05)
    assert time.monotonic() - started >= 0.05
    threading.Timer(0.05, queue.put, (7, Priority.BATCH)).start()
    assert queue.get(5) == 7


def test_concurrent_threads_get_each_item_once() -> None:
    queue: PriorityQueue[int | None] = PriorityQueue()
    items: list[int] = []

    def take() -> None:
        while (item := queue.get()) is not None:
            items.append(item)

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(2000):
        queue.put(number, Priority.BATCH if number % 3 else Priority.INTERACTIVE)
    while not queue.empty():
        time.sleep(0.001)
    for _ in threads:
        queue.put(None)
    for thread in threads:
        thread.join(5)
    assert sorted(items) == list(range(2000))

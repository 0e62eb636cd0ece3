"""Who is next: interactive before batch, the oldest first, and nobody waits for ever."""

from __future__ import annotations

import threading
import time
from queue import Empty

import pytest

from cluster.runtime import waiting_line
from cluster.runtime.waiting_line import Priority, WaitingLine


def test_interactive_goes_first_and_each_kind_in_order() -> None:
    line: WaitingLine[str] = WaitingLine()
    line.put("b1", Priority.BATCH)
    line.put("i1")
    line.put("b2", Priority.BATCH)
    line.put("i2", Priority.INTERACTIVE)
    assert [line.get() for _ in range(4)] == ["i1", "i2", "b1", "b2"]
    assert line.empty()


def test_a_batch_item_that_has_waited_goes_before_what_came_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(waiting_line, "PATIENCE_S", 0.05)
    line: WaitingLine[str] = WaitingLine()
    line.put("before")
    line.put("batch", Priority.BATCH)
    line.put("after")
    time.sleep(0.06)
    assert [line.get() for _ in range(3)] == ["before", "batch", "after"]


def test_it_waits_for_so_long_and_wakes_when_something_comes() -> None:
    line: WaitingLine[int] = WaitingLine()
    with pytest.raises(Empty):
        line.get(0)
    started = time.monotonic()
    with pytest.raises(Empty):
        line.get(0.05)
    assert time.monotonic() - started >= 0.05
    threading.Timer(0.05, line.put, (7, Priority.BATCH)).start()
    assert line.get(5) == 7


def test_many_threads_get_each_item_once() -> None:
    line: WaitingLine[int | None] = WaitingLine()
    found: list[int] = []

    def take() -> None:
        while (item := line.get()) is not None:
            found.append(item)

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(2000):
        line.put(number, Priority.BATCH if number % 3 else Priority.INTERACTIVE)
    while not line.empty():
        time.sleep(0.001)
    for _ in threads:
        line.put(None)
    for thread in threads:
        thread.join(5)
    assert sorted(found) == list(range(2000))

"""Memory that is lent comes back when the last view of it is gone, and not before."""

from __future__ import annotations

import gc

import numpy as np

from cluster.runtime.lending import Buffers, lent


def place(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


def test_a_buffer_is_used_again_once_no_view_of_it_is_left() -> None:
    buffers = Buffers()
    taken = buffers.take(1000)
    first = place(taken)
    view = taken.view(np.float32).reshape(10, 25)[3:]
    del taken
    gc.collect()
    other = buffers.take(1000)
    assert place(other) != first
    del view
    # The allocator would hand freed memory out again, too: only what was kept is not free.
    (idle,) = buffers._idle
    assert place(idle) == first
    again = buffers.take(1000)
    assert place(again) == first
    assert not buffers._idle


def test_only_a_buffer_of_exactly_that_size_is_used_again() -> None:
    buffers = Buffers()
    first = place(buffers.take(1000))
    for size in (999, 1001):
        taken = buffers.take(size)
        assert taken.size == size
        assert taken.flags.writeable
        assert [place(idle) for idle in buffers._idle].count(first) == 1
        del taken
    assert place(buffers.take(1000)) == first


def test_few_buffers_are_kept() -> None:
    buffers = Buffers()
    held = [buffers.take(64) for _ in range(100)]
    del held
    assert len(buffers._idle) == 8


def test_what_is_lent_is_returned_once() -> None:
    returned: list[bool] = []
    memory = np.zeros(8, np.uint8)
    array = lent(memory, lambda: returned.append(True))
    array[0] = 7
    views = [array[2:], array.reshape(2, 4)]
    del array
    assert not returned
    views.clear()
    assert returned == [True]
    assert memory[0] == 7

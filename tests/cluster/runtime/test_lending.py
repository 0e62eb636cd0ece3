"""Buffer pool: memory returns when its last view is released, and not before."""

from __future__ import annotations

import gc

import numpy as np

from cluster.runtime.lending import Buffers, lent


def address(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


def test_buffer_is_reused_after_last_view_ends() -> None:
    buffers = Buffers()
    buffer = buffers.take(1000)
    first = address(buffer)
    view = buffer.view(np.float32).reshape(10, 25)[3:]
    del buffer
    gc.collect()
    second = buffers.take(1000)
    assert address(second) != first
    del view
    # The allocator may reuse freed memory, too, so look at the pool itself.
    (idle,) = buffers._idle
    assert address(idle) == first
    again = buffers.take(1000)
    assert address(again) == first
    assert not buffers._idle


def test_buffer_is_reused_for_equal_size_only() -> None:
    buffers = Buffers()
    first = address(buffers.take(1000))
    for size in (999, 1001):
        buffer = buffers.take(size)
        assert buffer.size == size
        assert buffer.flags.writeable
        assert [address(idle) for idle in buffers._idle].count(first) == 1
        del buffer
    assert address(buffers.take(1000)) == first


def test_pool_bounds_idle_buffers() -> None:
    buffers = Buffers()
    arrays = [buffers.take(64) for _ in range(100)]
    del arrays
    assert len(buffers._idle) == 8


def test_lent_memory_is_returned_once() -> None:
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

"""What one process writes another one reads in place, and nobody overwrites it meanwhile."""

from __future__ import annotations

import gc
import multiprocessing
import os
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest

from cluster.errors import TransportError
from cluster.runtime.shared_memory import Borrower, Lender, Probe, reaches


def filled(value: int, size: int) -> np.ndarray:
    return np.full(size, value, np.uint8)


def open_files() -> set[str]:
    found = set()
    for each in Path("/proc/self/fd").iterdir():
        try:
            found.add(os.readlink(each))
        except FileNotFoundError:  # the one that lists the others
            continue
    return found


def mapped() -> int:
    return Path("/proc/self/maps").read_text().count("headrace-activations")


@pytest.fixture
def lender():
    lender = Lender()
    yield lender
    lender.close()


def test_arrays_are_read_where_they_were_written_and_are_the_readers_own(lender: Lender) -> None:
    borrower = Borrower(os.getpid())
    number = lender.lend([filled(1, 1000), filled(2, 77), filled(3, 100_000)])
    arrays = borrower.arrays(number, [1000, 77, 100_000])
    assert [set(array.tolist()) for array in arrays] == [{1}, {2}, {3}]
    assert all(place % 64 == 0 for place in (a.__array_interface__["data"][0] for a in arrays))
    arrays[0][:] = 9
    again = lender.lend([filled(4, 1000)])
    assert again != number
    assert set(arrays[0].tolist()) == {9}


def test_a_slot_is_used_again_once_its_last_view_is_gone(lender: Lender) -> None:
    borrower = Borrower(os.getpid())
    first = lender.lend([filled(1, 5000)])
    view = borrower.arrays(first, [5000])[0][10:20].reshape(2, 5)
    second = lender.lend([filled(2, 5000)])
    assert second != first
    del view
    assert lender.lend([filled(3, 5000)]) == first
    assert set(borrower.arrays(first, [5000])[0].tolist()) == {3}


def test_a_free_slot_grows_before_another_is_made(lender: Lender) -> None:
    borrower = Borrower(os.getpid())
    for size in (100, 1_000_000, 50, 3_000_000):
        number = lender.lend([filled(size % 251, size)])
        assert set(borrower.arrays(number, [size])[0].tolist()) == {size % 251}
    assert len(lender._slots) == 1


def test_nothing_is_left_of_what_was_lent() -> None:
    before = open_files()
    lender, borrower = Lender(), Borrower(os.getpid())
    arrays = borrower.arrays(lender.lend([filled(5, 10_000)]), [10_000])
    lender.close()
    assert set(arrays[0].tolist()) == {5}  # what is held stays valid
    assert mapped() > 0
    del arrays, borrower, lender
    gc.collect()
    assert mapped() == 0
    assert open_files() <= before  # what other tests left may be collected meanwhile


def test_a_closed_lender_lends_nothing() -> None:
    lender = Lender()
    lender.close()
    before = open_files()
    with pytest.raises(TransportError, match="closed"):
        lender.lend([filled(1, 10)])
    assert open_files() <= before  # what other tests left may be collected meanwhile


def _lends(connection: Connection) -> None:
    lender = Lender()
    connection.send((os.getpid(), lender.lend([filled(6, 20_000)])))
    connection.recv()
    lender.flush(10)
    connection.send("flushed")


def test_a_flush_waits_until_the_receiver_has_what_outlives_the_sender() -> None:
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_lends, args=(theirs,))
    process.start()
    try:
        pid, number = ours.recv()
        borrower = Borrower(pid)
        ours.send("flush")
        assert not ours.poll(0.3)
        (array,) = borrower.arrays(number, [20_000])
        assert ours.recv() == "flushed"
        process.join(10)
        assert set(array.tolist()) == {6}
        with pytest.raises(TransportError, match=f"process {pid} is gone with what it sent"):
            Borrower(pid).arrays(number, [20_000])
    finally:
        process.kill()
        process.join()


def test_memory_of_another_process_is_told_from_that_of_the_same_number_here() -> None:
    probe = Probe()
    pid, descriptor, token = probe.address.split(":")
    assert reaches(probe.address)
    other = Probe()
    assert not reaches(f"{pid}:{other.address.split(':')[1]}:{token}")
    other.close()
    assert not reaches(f"{2**22 + 1}:{descriptor}:{token}")
    assert not reaches(f"{pid}:0:{token}")
    with tempfile.TemporaryFile() as large:  # nothing of it is read but the beginning
        large.truncate(2**40)
        assert not reaches(f"{pid}:{large.fileno()}:{token}")
    probe.close()
    assert not reaches(probe.address)

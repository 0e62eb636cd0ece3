"""Shared memory: read in place by another process, and not overwritten meanwhile."""

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
    targets = set()
    for link in Path("/proc/self/fd").iterdir():
        try:
            targets.add(os.readlink(link))
        except FileNotFoundError:  # the descriptor of the listing itself
            continue
    return targets


def mapped() -> int:
    return Path("/proc/self/maps").read_text().count("headrace-activations")


@pytest.fixture
def lender():
    lender = Lender()
    yield lender
    lender.close()


def test_borrowed_arrays_are_not_overwritten(lender: Lender) -> None:
    borrower = Borrower(os.getpid())
    number = lender.lend([filled(1, 1000), filled(2, 77), filled(3, 100_000)])
    arrays = borrower.arrays(number, [1000, 77, 100_000])
    assert [set(array.tolist()) for array in arrays] == [{1}, {2}, {3}]
    assert all(address % 64 == 0 for address in (a.__array_interface__["data"][0] for a in arrays))
    arrays[0][:] = 9
    again = lender.lend([filled(4, 1000)])
    assert again != number
    assert set(arrays[0].tolist()) == {9}


def test_slot_is_reused_after_last_view_ends(lender: Lender) -> None:
    borrower = Borrower(os.getpid())
    first = lender.lend([filled(1, 5000)])
    view = borrower.arrays(first, [5000])[0][10:20].reshape(2, 5)
    second = lender.lend([filled(2, 5000)])
    assert second != first
    del view
    assert lender.lend([filled(3, 5000)]) == first
    assert set(borrower.arrays(first, [5000])[0].tolist()) == {3}


def test_free_slot_grows_before_new_slot_is_created(lender: Lender) -> None:
    borrower = Borrower(os.getpid())
    for size in (100, 1_000_000, 50, 3_000_000):
        number = lender.lend([filled(size % 251, size)])
        assert set(borrower.arrays(number, [size])[0].tolist()) == {size % 251}
    assert len(lender._slots) == 1


def test_shared_memory_leaves_no_mapping_or_file() -> None:
    before = open_files()
    lender, borrower = Lender(), Borrower(os.getpid())
    arrays = borrower.arrays(lender.lend([filled(5, 10_000)]), [10_000])
    lender.close()
    assert set(arrays[0].tolist()) == {5}  # held views stay valid
    assert mapped() > 0
    del arrays, borrower, lender
    gc.collect()
    assert mapped() == 0
    assert open_files() <= before  # leftovers of other tests may be collected meanwhile


def test_closed_lender_rejects_lending() -> None:
    lender = Lender()
    lender.close()
    before = open_files()
    with pytest.raises(TransportError, match="closed"):
        lender.lend([filled(1, 10)])
    assert open_files() <= before  # leftovers of other tests may be collected meanwhile


def _lends(connection: Connection) -> None:
    lender = Lender()
    connection.send((os.getpid(), lender.lend([filled(6, 20_000)])))
    connection.recv()
    lender.flush(10)
    connection.send("flushed")


def test_flush_waits_until_receiver_has_mapped_slot() -> None:
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
        with pytest.raises(TransportError, match=f"process {pid} ended before its frame was read"):
            Borrower(pid).arrays(number, [20_000])
    finally:
        process.kill()
        process.join()


def test_probe_identifies_memory_of_its_process_only() -> None:
    probe = Probe()
    pid, descriptor, token = probe.address.split(":")
    assert reaches(probe.address)
    second = Probe()
    assert not reaches(f"{pid}:{second.address.split(':')[1]}:{token}")
    second.close()
    assert not reaches(f"{2**22 + 1}:{descriptor}:{token}")
    assert not reaches(f"{pid}:0:{token}")
    with tempfile.TemporaryFile() as large:  # only its beginning is read
        large.truncate(2**40)
        assert not reaches(f"{pid}:{large.fileno()}:{token}")
    probe.close()
    assert not reaches(probe.address)

"""Bodies in memory: read whole by whom they were lent to, and by nobody else."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from concurrent.futures import ProcessPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.errors import LentBodyError, PayloadTooLargeError
from cluster.runtime.lent_bodies import Bodies, read_lent

LIMIT = 2**24


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def in_another_process(reference: str) -> bytes:
    return bytes(read_lent(reference, LIMIT))


def test_other_processes_read_what_was_written_once() -> None:
    parts = [b'{"inputs": []}', memoryview(os.urandom(600_000)), b"", b"end"]
    lent = Bodies().lend(parts)
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        read = list(pool.map(in_another_process, [lent.reference] * 4))
    assert read == [b"".join(parts)] * 4


@settings(max_examples=200)
@given(st.lists(st.lists(st.binary(max_size=300), max_size=4), min_size=1, max_size=12), st.data())
def test_every_body_is_read_as_it_was_lent_until_it_is_given_back(
    all_parts: list[list[bytes]], data: st.DataObject
) -> None:
    bodies, held = Bodies(), []
    for parts in all_parts:
        held.append((bodies.lend(parts), b"".join(parts)))
        if data.draw(st.booleans()):
            lent, _ = held.pop(data.draw(st.integers(0, len(held) - 1)))
            reference = lent.reference
            del lent
            again = bodies.lend([b"another"])  # may lie where the one before lay
            if again.reference.split(":")[1] == reference.split(":")[1]:
                with pytest.raises(LentBodyError, match="no such body"):
                    read_lent(reference, LIMIT)
        for lent, body in held:
            assert read_lent(lent.reference, LIMIT) == body


def test_memory_is_used_again_and_given_back() -> None:
    before = descriptors()
    bodies = Bodies()
    for _ in range(100):
        bodies.lend([b"body"])
    assert descriptors() == before + 1
    held = [bodies.lend([b"body"]) for _ in range(50)]
    assert descriptors() == before + 50
    held.clear()
    assert descriptors() < before + 20
    del bodies
    assert descriptors() == before


def test_a_body_over_the_limit_is_not_read() -> None:
    lent = Bodies().lend([b"12345"])
    assert read_lent(lent.reference, 5) == b"12345"
    with pytest.raises(PayloadTooLargeError, match="5 bytes, this model reads at most 4"):
        read_lent(lent.reference, 4)


@pytest.mark.parametrize(
    "reference",
    [
        "",
        ":",
        "1:2:3:4",
        *(
            f"{n}:{'0' * 32}"
            for n in ("1:2:3:-4", "1:2:3", "a:2:3:4", "²:2:3:4", "1 :2:3:4", "9" * 5000 + ":2:3:4")
        ),
        "1:2:3:4:00",
    ],
)
def test_what_is_no_reference_is_refused(reference: str) -> None:
    with pytest.raises(LentBodyError, match="no reference to a body"):
        read_lent(reference, LIMIT)


def test_a_body_whose_owner_is_gone_or_whose_token_is_another_is_refused() -> None:
    lent = Bodies().lend([b"body"])
    pid, number, use, length, token = lent.reference.split(":")
    others = {
        f"{2**22 + 1}:{number}:{use}:{length}:{token}",
        f"{pid}:99999:{use}:{length}:{token}",
        f"{pid}:{number}:{use}:{length}:{'0' * len(token)}",
        f"{pid}:{number}:{int(use) + 1}:{length}:{token}",
        f"{pid}:{number}:{use}:{int(length) + 1}:{token}",
    }
    said = set()
    for reference in others:
        with pytest.raises(LentBodyError) as error:
            read_lent(reference, LIMIT)
        said.add(str(error.value))
    assert len(said) == 1  # who guesses learns nothing from the sentence


def test_what_else_a_process_has_open_is_never_read() -> None:
    # As large as it claims, and beginning with what the reference says: still no lent body.
    head = bytes(range(16)) + (1).to_bytes(8, "little")
    reader, writer = os.pipe()
    with tempfile.TemporaryFile() as file:
        file.write(head + b"secret")
        file.flush()
        os.write(writer, head + b"secret")
        for number in (file.fileno(), reader):
            with pytest.raises(LentBodyError, match="no such body"):
                read_lent(f"{os.getpid()}:{number}:1:6:{head[:16].hex()}", LIMIT)
    os.close(reader)
    os.close(writer)

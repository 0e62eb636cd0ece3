"""Lent bodies: read whole by their receivers, and by no other process."""

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


def test_other_processes_read_lent_body() -> None:
    parts = [b'{"inputs": []}', memoryview(os.urandom(600_000)), b"", b"end"]
    body = Bodies().lend(parts)
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        read = list(pool.map(in_another_process, [body.reference] * 4))
    assert read == [b"".join(parts)] * 4


@settings(max_examples=200)
@given(st.lists(st.lists(st.binary(max_size=300), max_size=4), min_size=1, max_size=12), st.data())
def test_bodies_stay_readable_until_released(
    all_parts: list[list[bytes]], data: st.DataObject
) -> None:
    bodies, lent_bodies = Bodies(), []
    for parts in all_parts:
        lent_bodies.append((bodies.lend(parts), b"".join(parts)))
        if data.draw(st.booleans()):
            lent_body, _ = lent_bodies.pop(data.draw(st.integers(0, len(lent_bodies) - 1)))
            reference = lent_body.reference
            del lent_body
            again = bodies.lend([b"another"])  # may reuse the same slot
            if again.reference.split(":")[1] == reference.split(":")[1]:
                with pytest.raises(LentBodyError, match="referenced body is unavailable"):
                    read_lent(reference, LIMIT)
        for lent_body, body in lent_bodies:
            assert read_lent(lent_body.reference, LIMIT) == body


def test_body_memory_is_reused_and_released() -> None:
    before = descriptors()
    bodies = Bodies()
    for _ in range(100):
        bodies.lend([b"body"])
    assert descriptors() == before + 1
    lent_bodies = [bodies.lend([b"body"]) for _ in range(50)]
    assert descriptors() == before + 50
    lent_bodies.clear()
    assert descriptors() < before + 20
    del bodies
    assert descriptors() == before


def test_read_rejects_body_over_limit() -> None:
    body = Bodies().lend([b"12345"])
    assert read_lent(body.reference, 5) == b"12345"
    with pytest.raises(PayloadTooLargeError, match="5 bytes, this model reads at most 4"):
        read_lent(body.reference, 4)


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
def test_read_rejects_malformed_reference(reference: str) -> None:
    with pytest.raises(LentBodyError, match="malformed reference to a body"):
        read_lent(reference, LIMIT)


def test_read_rejects_wrong_reference_with_one_message() -> None:
    body = Bodies().lend([b"body"])
    pid, number, use, length, token = body.reference.split(":")
    references = {
        f"{2**22 + 1}:{number}:{use}:{length}:{token}",
        f"{pid}:99999:{use}:{length}:{token}",
        f"{pid}:{number}:{use}:{length}:{'0' * len(token)}",
        f"{pid}:{number}:{int(use) + 1}:{length}:{token}",
        f"{pid}:{number}:{use}:{int(length) + 1}:{token}",
    }
    messages = set()
    for reference in references:
        with pytest.raises(LentBodyError) as error:
            read_lent(reference, LIMIT)
        messages.add(str(error.value))
    assert len(messages) == 1  # a guess learns nothing from the message


def test_read_rejects_other_open_files() -> None:
    # Files with matching size and head, but not lent bodies.
    head = bytes(range(16)) + (1).to_bytes(8, "little")
    reader, writer = os.pipe()
    with tempfile.TemporaryFile() as file:
        file.write(head + b"secret")
        file.flush()
        os.write(writer, head + b"secret")
        for number in (file.fileno(), reader):
            with pytest.raises(LentBodyError, match="referenced body is unavailable"):
                read_lent(f"{os.getpid()}:{number}:1:6:{head[:16].hex()}", LIMIT)
    os.close(reader)
    os.close(writer)

"""Clients with false lengths, endless bodies, early disconnects or odd deadlines."""

from __future__ import annotations

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from prometheus import requests, wait_for
from support.http_client import Answer, Raw, ask

from deployments.http.body_rate import STALL_TIMEOUT_S
from deployments.ray.haproxy import BUFFER_BYTES

HUGE = 10 * 2**30
BEGUN = bytes(BUFFER_BYTES)
"""Part of a body that HAProxy buffers; it streams the rest."""


def post(path: str, *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: x", *headers, "", ""]
    return "\r\n".join(lines).encode()


@pytest.mark.parametrize("path", ["infer", "predict"])
def test_huge_length_is_refused_before_the_body(served, path: str) -> None:
    started = time.monotonic()
    with Raw(served.port) as raw:
        raw.send(
            post(
                f"/v2/models/tiny/{path}",
                f"Content-Length: {HUGE}",
                "Content-Type: application/json",
            ),
            b"{}",
        )
        answer = raw.answer()
    assert time.monotonic() - started < 8  # the body is not waited for, which would take 10 s
    assert answer.status == 413
    assert f"the body is {HUGE} bytes, this model reads at most" in answer.error
    served.assert_answers()


def send_without_end(port: int) -> int:
    """Send chunks until the server accepts no more; return the number of bytes sent."""
    chunk = b"10000\r\n" + bytes(0x10000) + b"\r\n"
    sent = 0
    with Raw(port, timeout_s=5) as raw:
        raw.send(post("/v2/models/tight/infer", "Transfer-Encoding: chunked"))
        with contextlib.suppress(OSError):  # the connection is closed or blocked
            while sent < 2**28:
                raw.send(chunk)
                sent += len(chunk)
    return sent


def test_endless_body_is_cut_off(served) -> None:
    send_without_end(served.port)  # the first request of a kind allocates memory that stays
    with served.memory("tight") as memory:
        sent = [send_without_end(served.port) for _ in range(3)]
    assert max(sent) < 2**27, "the server read the whole body"
    assert memory.grown_bytes < 20e6
    served.assert_answers()


def test_blocking_client_gets_413_for_a_large_body(served) -> None:
    # It reads the answer after it has sent everything, so the server must read it all.
    for _ in range(10):
        answer = ask(f"{served.tight}/infer", bytes(8 * served.body_bytes))
        assert answer.status == 413
        assert answer.error.startswith(f"the body is {8 * served.body_bytes} bytes")
    served.assert_answers()


def test_chunked_body_over_the_limit_gets_413(served) -> None:
    with Raw(served.port) as raw:
        raw.send(post("/v2/models/tight/infer", "Transfer-Encoding: chunked"))
        for _ in range(17):  # 64 KiB over the limit of 1 MiB, then silence
            raw.send(b"10000\r\n" + bytes(0x10000) + b"\r\n")
        answer = raw.answer()
    assert answer.status == 413
    assert answer.error == f"the body exceeds {served.body_bytes} bytes, the limit of this model"


def test_claimed_bytes_use_no_memory(served) -> None:
    connections = [Raw(served.port) for _ in range(12)]
    with served.memory("tiny") as memory:
        for raw in connections:
            raw.send(post("/v2/models/tiny/infer", f"Content-Length: {60 * 2**20}"), BEGUN)
        time.sleep(0.5)
        served.assert_answers()
        for raw in connections:
            raw.abort()
    assert memory.grown_bytes < 40e6


def test_disconnecting_clients_do_not_affect_others(served) -> None:
    body, headers = served.binary(served.random_input(256))
    assert len(body) > 2 * len(BEGUN)
    (length,) = headers.items()
    head = post(
        "/v2/models/tiny/infer", f"Content-Length: {len(body)}", f"{length[0]}: {length[1]}"
    )
    before = wait_for(served, lambda metrics: True)
    pid = served.replica_pid("tiny")
    for number in range(50):
        raw = Raw(served.port)
        raw.send(head, body[: len(body) // 2] if number % 2 else body)
        if number % 4 == 0:
            time.sleep(0.002)  # during the computation, on most machines
        raw.abort()
        if number % 10 == 0:
            served.assert_answers()
    served.assert_answers()
    assert served.replica_pid("tiny") == pid
    wait_for(served, lambda m: requests(m, "cancelled") >= requests(before, "cancelled") + 20)


def test_incomplete_body_gets_408_at_its_deadline(served) -> None:
    length = f"Content-Length: {2 * len(BEGUN)}"
    late = post("/v2/models/tiny/infer", length, "X-Request-Timeout-Seconds: 0.001")
    for _ in range(5):
        started = time.monotonic()
        with Raw(served.port) as raw:
            raw.send(late, BEGUN)  # and no more
            answer = raw.answer()
        assert time.monotonic() - started < 8
        assert answer.status == 408
        assert "within its deadline of 0.001 s" in answer.error
    served.assert_answers()


def test_stalled_bodies_do_not_block_a_replica(served) -> None:
    """More stalled bodies than a replica's concurrency, each past HAProxy's buffer."""

    def stall(number: int) -> Answer:
        chunked = number % 2 == 0
        form = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {3 * len(BEGUN)}"
        begun = b"%x\r\n%s\r\n" % (len(BEGUN), BEGUN) if chunked else BEGUN
        with Raw(served.port, timeout_s=40) as raw:
            raw.send(post("/v2/models/tight/infer", form, "Content-Type: application/json"), begun)
            if number % 4 > 1:  # a byte now and then
                with contextlib.suppress(OSError):
                    for _ in range(8):
                        time.sleep(1)
                        raw.send(b"1\r\na\r\n" if chunked else b"a")
            return raw.answer()

    started = time.monotonic()
    with ThreadPoolExecutor(40) as pool:
        stalled = [pool.submit(stall, number) for number in range(40)]
        time.sleep(1)
        body, headers = served.binary(served.random_input(1))
        answer = ask(f"{served.tight}/infer", body, headers, timeout_s=40)
        waited = time.monotonic() - started
        refused = [answer.result() for answer in stalled]
    assert answer.status == 200
    # Bodies ahead of it used the stall timeout, those in the queue a second each.
    assert waited < STALL_TIMEOUT_S + 10
    for refusal in refused:
        assert refusal.status == 408
        assert refusal.error.startswith(
            f"the body of request {refusal.headers['x-request-id']} arrives too slowly, "
        )
    served.assert_answers()


@pytest.mark.parametrize("timeout", ["0", "nan", "-1", "inf", "soon", "1e999", ""])
def test_invalid_deadline_changes_nothing(served, timeout: str) -> None:
    body, headers = served.binary(served.random_input(1))
    answer = ask(f"{served.tiny}/infer", body, {**headers, "X-Request-Timeout-Seconds": timeout})
    assert answer.status == 200

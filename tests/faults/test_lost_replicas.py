"""Replica that dies or hangs: no client hangs, errors show no internals, and it is replaced."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from http.client import RemoteDisconnected
from pathlib import Path

import pytest
from support.http_client import ask
from support.titles import replica_pid
from support.wait import WITHIN_S, until

from deployments.local import LocalCluster

ANSWERED_WITHIN_S = 12


@pytest.fixture
def url(cluster: LocalCluster, int8_artifact_store: Path, write_config: Callable[..., Path]) -> str:
    args = {"name": "tiny", "artifact": "tiny-int8", "store": str(int8_artifact_store)}
    cluster.deploy(write_config(args), timeout_s=WITHIN_S)
    url = f"{cluster.http}/v2/models/tiny"
    # Serve reports RUNNING until its health check fails for a replica killed by an earlier test.
    until(lambda: metadata(url) == 200)
    return url


def metadata(url: str) -> int | None:
    """Return the status of a metadata request; None if the connection closed without an answer.

    HAProxy closes it for a request that it had sent to the replica on a reused connection, if
    the replica died with it. Retrying is then up to the client.
    """
    started = time.monotonic()
    try:
        answer = ask(url, timeout_s=ANSWERED_WITHIN_S)
    except RemoteDisconnected:
        return None
    finally:
        assert time.monotonic() - started < ANSWERED_WITHIN_S
    if answer.status != 200:
        assert answer.status in (408, 500, 502, 503, 504)
        assert b"Traceback" not in answer.body
        assert b"/" not in answer.body.replace(b"text/plain", b"")
    return answer.status


@pytest.mark.fault("a replica is killed")
def test_killed_replica_is_replaced(
    cluster: LocalCluster, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    killed = replica_pid(cluster, "tiny")
    os.kill(killed, signal.SIGKILL)
    started = time.monotonic()
    seen: Counter[int | None] = Counter()
    in_a_row = 0

    def answers_again() -> bool:
        nonlocal in_a_row
        status = metadata(url)
        seen[status] += 1
        in_a_row = in_a_row + 1 if status == 200 else 0
        return in_a_row == 10

    until(answers_again, lambda: seen, poll_s=0.05)
    with capsys.disabled():
        print(
            f"\n  replaced {time.monotonic() - started:.1f} s after the kill, answers {dict(seen)}"
        )
    assert replica_pid(cluster, "tiny") != killed
    assert seen[None] <= 1, "only a request in flight at the killed replica may stay unanswered"


@pytest.mark.slow
@pytest.mark.fault("a replica freezes")
def test_frozen_replica_blocks_no_client_and_is_replaced(
    cluster: LocalCluster, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    frozen = replica_pid(cluster, "tiny")
    os.kill(frozen, signal.SIGSTOP)
    started = time.monotonic()
    seen: Counter[int | None] = Counter()

    def answers_again() -> bool:
        seen[metadata(url)] += 1
        return seen[200] > 0

    # Serve replaces it after three health checks without an answer.
    until(answers_again, lambda: seen)
    with capsys.disabled():
        print(
            f"\n  replaced {time.monotonic() - started:.1f} s after it froze, answers {dict(seen)}"
        )
    until(lambda: not Path(f"/proc/{frozen}").exists())  # Ray waits for it, then kills it
    assert replica_pid(cluster, "tiny") != frozen

"""A replica that dies or hangs: others' answers stay clean, none hangs, and it is replaced."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from http.client import RemoteDisconnected
from pathlib import Path

import pytest
from http_client import ask

from deployments.local import LocalCluster, processes

ANSWERED_WITHIN_S = 12
REPLACED_WITHIN_S = 40
THAWED_WITHIN_S = 90
"""A frozen one is found out by three health checks that it does not answer."""

ENDED_WITHIN_S = 20
"""So long Ray waits for its process before it kills it."""


@pytest.fixture
def url(cluster: LocalCluster, int8_artifact_store: Path, write_config: Callable[..., Path]) -> str:
    args = {"name": "tiny", "artifact": "tiny-int8", "store": str(int8_artifact_store)}
    cluster.deploy(write_config(args), timeout_s=60)
    url = f"{cluster.http}/v2/models/tiny"
    # Serve says RUNNING until its health check notices that a test before this one killed.
    deadline = time.monotonic() + REPLACED_WITHIN_S
    while metadata(url) != 200:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return url


def replica_pid(cluster: LocalCluster) -> int:
    for process in processes.find(cluster.record.cluster_id, cluster.record.run_dir):
        if b"ray::ServeReplica:tiny:" in Path(f"/proc/{process.pid}/cmdline").read_bytes():
            return process.pid
    raise AssertionError("no replica runs")


def metadata(url: str) -> int | None:
    """The status a replica answers with, or what stands for one while there is none.

    None: the connection was closed without an answer. HAProxy does that with a request that
    went to the replica on a connection used before and died with it: the client's to repeat.
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
def test_a_killed_replica_is_replaced(
    cluster: LocalCluster, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    killed = replica_pid(cluster)
    os.kill(killed, signal.SIGKILL)
    started = time.monotonic()
    seen: Counter[int | None] = Counter()
    in_a_row = 0
    while in_a_row < 10:
        assert time.monotonic() - started < REPLACED_WITHIN_S, seen
        status = metadata(url)
        seen[status] += 1
        in_a_row = in_a_row + 1 if status == 200 else 0
        time.sleep(0.05)
    with capsys.disabled():
        print(
            f"\n  replaced {time.monotonic() - started:.1f} s after the kill, answers {dict(seen)}"
        )
    assert replica_pid(cluster) != killed
    assert seen[None] <= 1, "only what was with the replica when it died may go unanswered"


@pytest.mark.slow
@pytest.mark.fault("a replica freezes")
def test_a_frozen_replica_makes_no_client_wait_for_ever_and_is_replaced(
    cluster: LocalCluster, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    frozen = replica_pid(cluster)
    os.kill(frozen, signal.SIGSTOP)
    started = time.monotonic()
    seen: Counter[int | None] = Counter()
    while not seen[200]:
        assert time.monotonic() - started < THAWED_WITHIN_S, seen
        seen[metadata(url)] += 1
        time.sleep(0.1)
    with capsys.disabled():
        print(
            f"\n  replaced {time.monotonic() - started:.1f} s after it froze, answers {dict(seen)}"
        )
    deadline = time.monotonic() + ENDED_WITHIN_S
    while Path(f"/proc/{frozen}").exists():  # it never went on
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert replica_pid(cluster) != frozen

"""A shard that is killed or frozen: its replica fails whole and quickly, and is replaced.

Also what must not end a replica, and what a replica waits for that does not start.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from shards import Load, request_body, shard_at, shard_pids
from support.http_client import ask
from support.wait import until

from cluster.artifact.local import LocalStore
from cluster.compression import job
from cluster.errors import ClusterError
from deployments.http.errors import INTERNAL
from deployments.local import LocalCluster

FAILED_WITHIN_S = 5.0
"""How long a request that was in flight may wait for its 503."""

ITEM = (1, 16, 16)
CUT = {"pipeline": 2, "tensor": 1}
WriteConfig = Callable[..., Path]
KILLED = pytest.mark.fault("a shard is killed")
FROZEN = pytest.mark.fault("a shard freezes")


def cut_args(store: Path, **changes: object) -> dict[str, object]:
    """Of a model ``cut``, whose artifact is tiny-cut."""
    args = {"name": "cut", "artifact": "tiny-cut", "store": str(store), "parallel": CUT}
    return args | changes


@pytest.fixture
def deploy(
    cluster: LocalCluster, cut_artifact_store: Path, write_config: WriteConfig
) -> Callable[..., str]:
    """``deploy(replicas=1, **parallel)`` → the URL for infer, once all shards serve."""

    def deployed(replicas: int = 1, **parallel: object) -> str:
        args = cut_args(cut_artifact_store, replicas=replicas, parallel={**CUT, **parallel})
        cluster.deploy(write_config(args), timeout_s=120)
        url = f"{cluster.http}/v2/models/cut/infer"
        until(lambda: len(shard_pids(cluster)) == 2 * replicas and answers(url))
        return url

    return deployed


def answers(url: str) -> bool:
    return ask(url, request_body(ITEM), {"Content-Type": "application/json"}).status == 200


def check_failed_requests(load: Load, hit: float) -> Counter[int | None]:
    """Each got its answer soon, and it was 503 with Retry-After while there were shards to lose."""
    seen = Counter(each.status for each in load.asked)
    in_flight = [each for each in load.asked if each.started <= hit <= each.ended]
    assert in_flight, "the shard was hit between requests"
    for each in in_flight:
        assert each.ended - hit < FAILED_WITHIN_S, each
    for each in load.asked:
        if each.status == 503 and b"this replica" in each.body:
            assert each.retry_after == "1", each
        if each.status not in (200, None):
            assert b"Traceback" not in each.body
            assert b"/" not in each.body.replace(b"text/plain", b"")
    assert seen[503] >= 1, seen
    # What reaches the replica in the moment it ends is closed by HAProxy without an answer.
    assert seen[None] <= load.clients, seen
    return seen


@pytest.mark.parametrize(
    ("how", "stage"),
    [
        pytest.param(signal.SIGKILL, 0, id="killed-0", marks=KILLED),
        pytest.param(signal.SIGSTOP, 1, id="frozen-1", marks=[pytest.mark.slow, FROZEN]),
        pytest.param(signal.SIGKILL, 1, id="killed-1", marks=[pytest.mark.slow, KILLED]),
        pytest.param(signal.SIGSTOP, 0, id="frozen-0", marks=[pytest.mark.slow, FROZEN]),
    ],
)
def test_a_lost_shard_fails_its_replica_at_once_and_all_of_it_is_replaced(
    cluster: LocalCluster,
    deploy: Callable[..., str],
    how: signal.Signals,
    stage: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # SIGKILL is also what the kernel sends to a process that is out of memory.
    url = deploy()
    before, target = shard_pids(cluster), shard_at(cluster, stage)
    with Load(url, request_body(ITEM)) as load:
        time.sleep(0.5)
        hit = time.monotonic()
        os.kill(target, how)
        until(lambda: not set(before) & set(shard_pids(cluster)))
        until(lambda: any(a.status == 200 and a.started > hit + 1 for a in load.asked))
    seen = check_failed_requests(load, hit)
    recovered = min(a.ended for a in load.asked if a.status == 200 and a.started > hit + 1) - hit
    with capsys.disabled():
        print(f"\n  answers again {recovered:.1f} s after the shard was hit, statuses {dict(seen)}")
    assert len(shard_pids(cluster)) == 2
    for pid in before:
        assert not Path(f"/proc/{pid}").exists(), "a shard of the lost replica is left"


@pytest.mark.slow
@pytest.mark.fault("a shard of one of two replicas is killed")
def test_other_replicas_go_on_answering(cluster: LocalCluster, deploy: Callable[..., str]) -> None:
    url = deploy(replicas=2)
    before = shard_pids(cluster)
    with Load(url, request_body(ITEM)) as load:
        time.sleep(0.5)
        hit = time.monotonic()
        os.kill(before[0], signal.SIGKILL)
        time.sleep(4)
    check_failed_requests(load, hit)
    after = [each for each in load.asked if each.started > hit + 1.5]
    assert after
    assert {each.status for each in after} == {200}


@pytest.mark.slow
@pytest.mark.fault("a shard is killed while it starts")
def test_a_shard_killed_while_it_starts_is_no_obstacle(
    cluster: LocalCluster, deploy: Callable[..., str]
) -> None:
    killed: list[int] = []
    over = threading.Event()
    known = set(shard_pids(cluster))

    def kill_the_first() -> None:
        while not over.is_set() and not killed:
            for pid in set(shard_pids(cluster)) - known:
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
            time.sleep(0.01)

    thread = threading.Thread(target=kill_the_first)
    thread.start()
    try:
        url = deploy(max_inflight=2)  # another config: all replicas are started anew
    finally:
        over.set()
        thread.join()
    assert killed
    assert answers(url)


@pytest.mark.slow
def test_nothing_is_left_of_a_model_that_is_no_longer_served(
    cluster: LocalCluster,
    deploy: Callable[..., str],
    cut_artifact_store: Path,
    write_config: WriteConfig,
) -> None:
    deploy()
    whole = {"name": "whole", "artifact": "tiny-cut", "store": str(cut_artifact_store)}
    cluster.deploy(write_config(whole), timeout_s=120)
    until(lambda: not shard_pids(cluster))  # fails after its time
    assert shard_pids(cluster) == []


@pytest.mark.slow
@pytest.mark.fault("an item makes a shard raise")
def test_an_item_that_a_shard_refuses_fails_alone(
    cluster: LocalCluster, write_config: WriteConfig, tmp_path: Path, tiny_recipe
) -> None:
    recipe = tiny_recipe(
        "tiny-looked-up", None, model="looked_up", programs=[{"kinds": ["exported"]}],
        parallel=[{"pipeline": 2}],
    )  # fmt: skip
    assert job.run(recipe, LocalStore(tmp_path), print).artifact is not None
    args = cut_args(tmp_path, artifact="tiny-looked-up", batching={"max_wait_ms": 300})
    cluster.deploy(write_config(args), timeout_s=120)
    url = f"{cluster.http}/v2/models/cut/infer"
    before = shard_pids(cluster)
    headers = {"Content-Type": "application/json"}
    good, bad = request_body(ITEM), request_body(ITEM, scale=1000)
    alone = outputs(ask(url, good, headers).body)
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(lambda body: ask(url, body, headers), [good] * 4 + [bad] + [good] * 3)
        )
    assert [each.status for each in answers] == [200] * 4 + [500] + [200] * 3
    assert answers[4].error == INTERNAL
    for each in answers[:4] + answers[5:]:
        np.testing.assert_allclose(outputs(each.body), alone, rtol=1e-5, atol=1e-5)
    assert shard_pids(cluster) == before, "a refused item must not cost a replica its shards"


def outputs(body: bytes) -> list[float]:
    (output,) = json.loads(body)["outputs"]
    values: list[float] = output["data"]
    return values


@pytest.mark.slow
def test_replicas_of_a_group_come_and_go_with_the_load(
    cluster: LocalCluster, cut_artifact_store: Path, write_config: WriteConfig
) -> None:
    scaling = {
        "min_replicas": 1, "max_replicas": 2, "target_ongoing_requests": 2,
        "upscale_delay_s": 1, "downscale_delay_s": 3, "look_back_period_s": 2,
        "metrics_interval_s": 1,
    }  # fmt: skip
    cluster.deploy(write_config(cut_args(cut_artifact_store, autoscaling=scaling)), timeout_s=120)
    url = f"{cluster.http}/v2/models/cut/infer"
    first = set(shard_pids(cluster))
    assert len(first) == 2
    with Load(url, request_body(ITEM), clients=16) as load:
        until(lambda: len(shard_pids(cluster)) == 4)
        time.sleep(3)  # the second group answers, too
    assert {each.status for each in load.asked} == {200}
    assert first < set(shard_pids(cluster))
    until(lambda: len(shard_pids(cluster)) == 2)
    assert answers(url)


@pytest.mark.slow
@pytest.mark.fault("a replica finds no room")
def test_a_replica_without_room_says_which_bundle_lacks_what(
    cluster: LocalCluster, cut_artifact_store: Path, write_config: WriteConfig
) -> None:
    # 6 CPUs hold three replicas of two shards.
    config = write_config(cut_args(cut_artifact_store, replicas=4))
    with pytest.raises(ClusterError, match="application 'cut' is DEPLOYING"):
        cluster.deploy(config, timeout_s=30)
    command = [sys.executable, "-m", "deployments.cli.main", "inspect", "--replicas", "cut"]
    environment = {**os.environ, **cluster.environment(), "HOME": "/nonexistent"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("stage") == 1  # the header
    (waits,) = [line for line in done.stdout.splitlines() if "waits" in line]
    lacks = "bundle 1 of 3 needs 1 CPU; free after the others: "
    assert re.fullmatch(rf"cut, replica \w+, waits: {lacks}[\d.]+ 0 of 6 CPU", waits)
    cluster.deploy(write_config(cut_args(cut_artifact_store)), timeout_s=120)

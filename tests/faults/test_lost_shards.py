"""Shard that is killed or frozen: its whole replica fails quickly, and is replaced.

Also errors that must not end a replica, and the reasons for which a replica does not start.
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
from shards import shard_at, shard_pids
from support.http_client import ask
from support.load import Load, request_body
from support.wait import until

from cluster.artifact.local import LocalStore
from cluster.compression import job
from cluster.errors import ClusterError
from deployments.local import LocalCluster

FAILED_WITHIN_S = 5.0
"""Bound in seconds for the 503 of an in-flight request."""

ITEM = (1, 16, 16)
CUT = {"pipeline": 2, "tensor": 1}
WriteConfig = Callable[..., Path]
KILLED = pytest.mark.fault("a shard is killed")
FROZEN = pytest.mark.fault("a shard freezes")


def cut_args(store: Path, **changes: object) -> dict[str, object]:
    """Return the args of the model ``cut``, whose artifact is tiny-cut."""
    args = {"name": "cut", "artifact": "tiny-cut", "store": str(store), "parallel": CUT}
    return args | changes


@pytest.fixture
def deploy(
    cluster: LocalCluster, cut_artifact_store: Path, write_config: WriteConfig
) -> Callable[..., str]:
    """Return ``deploy(replicas=1, **parallel)`` → the URL for infer, once all shards serve."""

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
    """Check that in-flight requests ended in time, with 503 and Retry-After; return the statuses.

    ``hit``: time of the fault, in seconds of the monotonic clock.
    """
    seen = Counter(request.status for request in load.requests)
    in_flight = [request for request in load.requests if request.started <= hit <= request.ended]
    assert in_flight, "no request was in flight when the shard was hit"
    for request in in_flight:
        assert request.ended - hit < FAILED_WITHIN_S, request
    for request in load.requests:
        if request.status == 503 and b"this replica" in request.body:
            assert request.retry_after == "1", request
        if request.status not in (200, None):
            assert b"Traceback" not in request.body
            assert b"/" not in request.body.replace(b"text/plain", b"")
    assert seen[503] >= 1, seen
    # HAProxy closes a request that arrives while the replica ends, without an answer.
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
def test_lost_shard_fails_its_replica_quickly_and_it_is_replaced(
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
        until(lambda: any(a.status == 200 and a.started > hit + 1 for a in load.requests))
    seen = check_failed_requests(load, hit)
    recovered = min(a.ended for a in load.requests if a.status == 200 and a.started > hit + 1) - hit
    with capsys.disabled():
        print(f"\n  answers again {recovered:.1f} s after the shard was hit, statuses {dict(seen)}")
    assert len(shard_pids(cluster)) == 2
    for pid in before:
        assert not Path(f"/proc/{pid}").exists(), "a shard of the failed replica still runs"


@pytest.mark.slow
@pytest.mark.fault("a shard of one of two replicas is killed")
def test_other_replicas_answer_while_shard_is_unavailable(
    cluster: LocalCluster, deploy: Callable[..., str]
) -> None:
    url = deploy(replicas=2)
    before = shard_pids(cluster)
    with Load(url, request_body(ITEM)) as load:
        time.sleep(0.5)
        hit = time.monotonic()
        os.kill(before[0], signal.SIGKILL)
        time.sleep(4)
    check_failed_requests(load, hit)
    after = [request for request in load.requests if request.started > hit + 1.5]
    assert after
    assert {request.status for request in after} == {200}


@pytest.mark.slow
@pytest.mark.fault("a shard is killed while it starts")
def test_deploy_succeeds_when_starting_shard_is_killed(
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
        url = deploy(max_inflight=2)  # another config: all replicas are restarted
    finally:
        over.set()
        thread.join()
    assert killed
    assert answers(url)


@pytest.mark.slow
def test_removed_model_leaves_no_shards(
    cluster: LocalCluster,
    deploy: Callable[..., str],
    cut_artifact_store: Path,
    write_config: WriteConfig,
) -> None:
    deploy()
    whole = {"name": "whole", "artifact": "tiny-cut", "store": str(cut_artifact_store)}
    cluster.deploy(write_config(whole), timeout_s=120)
    until(lambda: not shard_pids(cluster))  # AssertionError after the bound
    assert shard_pids(cluster) == []


@pytest.mark.slow
@pytest.mark.fault("an item makes a shard raise")
def test_item_that_shard_rejects_fails_alone(
    cluster: LocalCluster, write_config: WriteConfig, tmp_path: Path, tiny_recipe
) -> None:
    recipe = tiny_recipe(
        "tiny-looked-up",
        None,
        model="looked_up",
        programs=[{"kinds": ["exported"]}],
        parallel=[{"pipeline": 2}],
    )
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
    assert [answer.status for answer in answers] == [200] * 4 + [400] + [200] * 3
    refusal = r"embedding gets index \d+, computed from input; this model accepts 0 to 3"
    assert re.fullmatch(refusal, str(answers[4].error))
    for answer in answers[:4] + answers[5:]:
        np.testing.assert_allclose(outputs(answer.body), alone, rtol=1e-5, atol=1e-5)
    assert shard_pids(cluster) == before, "a rejected item must not end the replica's shards"


def outputs(body: bytes) -> list[float]:
    (output,) = json.loads(body)["outputs"]
    values: list[float] = output["data"]
    return values


@pytest.mark.slow
def test_sharded_replicas_scale_with_load(
    cluster: LocalCluster, cut_artifact_store: Path, write_config: WriteConfig
) -> None:
    scaling = {
        "min_replicas": 1,
        "max_replicas": 2,
        "target_ongoing_requests": 2,
        "upscale_delay_s": 1,
        "downscale_delay_s": 3,
        "look_back_period_s": 2,
        "metrics_interval_s": 1,
    }
    cluster.deploy(write_config(cut_args(cut_artifact_store, autoscaling=scaling)), timeout_s=120)
    url = f"{cluster.http}/v2/models/cut/infer"
    first = set(shard_pids(cluster))
    assert len(first) == 2
    with Load(url, request_body(ITEM), clients=16) as load:
        until(lambda: len(shard_pids(cluster)) == 4)
        time.sleep(3)  # the second group answers as well
    assert {request.status for request in load.requests} == {200}
    assert first < set(shard_pids(cluster))
    until(lambda: len(shard_pids(cluster)) == 2)
    assert answers(url)


@pytest.mark.slow
@pytest.mark.fault("a replica finds no room")
def test_inspect_names_bundle_and_missing_resource(
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

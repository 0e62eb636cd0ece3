"""Planned changes fail no request: upgrades, fewer replicas, a node's drain."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from figures import measured
from served_nodes import Served

from deployments.ray.time_limits import DRAIN_START_VARIABLE


def test_rolling_upgrade_fails_no_request(served: Served) -> None:
    old = served.ask(served.homes("tiny")[0], "/v2/models/tiny").json["versions"]
    homes = served.homes("tiny")
    started = time.monotonic()
    with served.load("tiny", *homes) as load:
        time.sleep(1)
        served.deploy(artifact="tiny-bf16")
        time.sleep(1)
    assert not load.failed, load.summary()
    assert served.ask(served.homes("tiny")[0], "/v2/models/tiny").json["versions"] != old
    measured("rolling upgrade to another artifact: requests failed", load.failures, "0")
    measured("... took", f"{time.monotonic() - started:.0f} s")


@pytest.mark.slow
def test_upgrade_of_only_replica_fails_no_request(served: Served) -> None:
    """The upgrade needs free resources for one more replica."""
    served.deploy(replicas=1, surge_percent=20)
    before = served.replica_ids("tiny")
    (entry,) = served.homes("cut")  # through a node that serves all the time
    with served.load("tiny", entry) as load:
        time.sleep(1)
        served.deploy(artifact="tiny-bf16", replicas=1, surge_percent=20)
        served.cluster.wait(
            lambda: len(now := served.replica_ids("tiny")) == 1 and now != before,
            "the replica is not replaced",
            60,
        )
        served.wait_for(1)
        time.sleep(1)
    assert not load.failed, load.summary()
    measured("upgrade of the only replica, one more first: requests failed", load.failures, "0")


@pytest.mark.slow
def test_scaling_down_fails_no_request(served: Served) -> None:
    served.deploy(replicas=3)
    with served.load("tiny", *served.homes("tiny")) as load:
        time.sleep(1)
        served.deploy(replicas=1)
        time.sleep(1)
    assert not load.failed, load.summary()
    measured("scale-down from 3 replicas to 1: requests failed", load.failures, "0")


def test_node_drain_fails_no_request(served: Served) -> None:
    """Run ``python -m deployments.drain`` on the node, as a pod's ``preStop`` does."""
    staying, leaving = served.homes("tiny")
    node = served.cluster.node_at(leaving)
    started = time.monotonic()
    with served.load("tiny", staying) as load, ThreadPoolExecutor(1) as executor:
        # Clients of the leaving node's HAProxy, whose health check fails from the drain on.
        with served.load("tiny", leaving) as last:
            time.sleep(1)
            drain = [sys.executable, "-P", "-m", "deployments.drain"]
            draining = executor.submit(served.cluster.run_on, node, *drain)
            unhealthy_s = served.cluster.wait(
                lambda: served.ask(leaving, "/-/healthz").status == 503, "it is healthy", 30
            )
            time.sleep(5)  # time for a load balancer, or Kubernetes, to notice
        done = draining.result()
        assert done.returncode == 0, done.stderr
        node.kill()
        seconds = time.monotonic() - started
        served.wait_for(2)
        time.sleep(1)
    assert "has no replica and no shard left" in done.stdout
    assert not last.failed, last.summary()
    assert not load.failed, load.summary()
    assert leaving not in served.homes("tiny")
    measured("node drain: requests failed", load.failures, "0")
    measured("... of those sent by way of the node itself", last.failures, "0")
    measured("... its HAProxy says 503 to health checks after", f"{unhealthy_s:.1f} s")
    measured("... until the node may stop", f"{seconds:.0f} s")


@pytest.mark.slow
@pytest.mark.fault("a node drains, and there is no room elsewhere")
def test_drain_without_free_resources_names_missing_replicas(served: Served) -> None:
    served.deploy(replicas=3)  # at most one on a node, and there are three nodes
    entry, *_, leaving = served.homes("tiny")
    node = served.cluster.node_at(leaving)
    with served.load("tiny", entry) as load:
        drain = [sys.executable, "-P", "-m", "deployments.drain"]
        done = served.cluster.run_on(node, "env", f"{DRAIN_START_VARIABLE}=5", *drain)
    assert done.returncode == 1, done
    assert "missing replicas" in done.stderr, done.stderr
    assert "1 of tiny" in done.stderr, done.stderr
    assert not load.failed, load.summary()
    measured("a node drains without room elsewhere: requests failed", load.failures, "0")
    node.kill()


@pytest.mark.fault("a node drains that has shards alone")
def test_shards_leave_draining_node_and_return_to_their_group(served: Served) -> None:
    entry, apart, _ = _entry_apart_third(served)
    node = served.cluster.node_at(apart)
    before = served.replica_ids("cut")
    with served.load("cut", entry) as load:
        time.sleep(1)
        started = time.monotonic()
        drain = [sys.executable, "-P", "-m", "deployments.drain"]
        done = served.cluster.run_on(node, *drain)
        drained_s = time.monotonic() - started
        assert done.returncode == 0, done.stderr
        assert apart not in served.shard_homes()
        node.kill()
        # Ray places the lost bundle again, and the shard returns to it.
        served.cluster.wait(served.is_cut_at_home, "it does not move back", 60)
        served.wait_for(2)
        assert apart not in served.shard_homes()
        time.sleep(1)
    assert not load.failed, load.summary()
    assert served.replica_ids("cut") == before
    longest = max(request.ended - request.started for request in load.requests)
    assert longest < 5
    measured("a node drains that has shards alone: requests failed", load.failures, "0")
    measured("... until the node may stop", f"{drained_s:.0f} s")
    measured("... slowest request, of two moves", f"{longest:.1f} s")


@pytest.mark.slow
@pytest.mark.fault("a node drains that has shards alone, and there is room for them once")
def test_shards_with_room_once_wait_for_their_own_bundle(served: Served) -> None:
    """The resources that the moved shards hold are the ones that Ray needs for their bundle."""
    entry, apart, third = _entry_apart_third(served)
    node = served.cluster.node_at(apart)
    tiny = served.homes("tiny")
    spare = {entry: 0, third: 1}
    if apart in tiny:
        spare[next(home for home in (entry, third) if home not in tiny)] += 1
    with _filled(served, spare), served.load("cut", entry) as load:
        before = served.replica_ids("cut")
        done = served.cluster.run_on(node, sys.executable, "-P", "-m", "deployments.drain")
        assert done.returncode == 0, done.stderr
        node.kill()
        served.cluster.wait(served.is_cut_at_home, "it does not move back", 60)
        served.wait_for(2)
    assert not load.failed, load.summary()
    assert served.replica_ids("cut") == before
    longest = max(request.ended - request.started for request in load.requests)
    measured("shards move and have room once: requests failed", load.failures, "0")
    measured("... slowest request", f"{longest:.1f} s")


@pytest.mark.slow
@pytest.mark.fault("a node drains that has shards alone, and there is no room elsewhere")
def test_shards_without_room_are_named_and_still_answer(served: Served) -> None:
    entry, apart, third = _entry_apart_third(served)
    node = served.cluster.node_at(apart)
    with _filled(served, {entry: 0, third: 0}), served.load("cut", entry) as load:
        drain = [sys.executable, "-P", "-m", "deployments.drain"]
        done = served.cluster.run_on(node, "env", f"{DRAIN_START_VARIABLE}=5", *drain)
    assert done.returncode == 1, done
    assert "shard SERVE_REPLICA::cut#model-cut#" in done.stderr, done.stderr
    assert not load.failed, load.summary()
    node.kill()


def _entry_apart_third(served: Served) -> tuple[str, str, str]:
    """Return the node of the replica of ``cut``, a node with only a shard of it, and the third."""
    homes = served.spread_cut()
    (entry,) = served.homes("cut")
    apart = next(home for home in homes if home != entry)
    (third,) = set(served.cluster.alive()) - {entry, apart}
    return entry, apart, third


@contextlib.contextmanager
def _filled(served: Served, spare: dict[str, int]) -> Iterator[None]:
    """Reserve the nodes' CPUs inside the block, except ``spare`` of each address."""
    filler = [sys.executable, "-P", str(Path(__file__).with_name("filler.py"))]
    first = served.cluster.node_at(next(iter(spare)))
    arguments = [f"{address}={cpus}" for address, cpus in spare.items()]
    done = served.cluster.run_on(first, *filler, *arguments)
    assert done.returncode == 0, done.stderr
    try:
        yield
    finally:
        done = served.cluster.run_on(first, *filler)
        assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.fault("a node drains while the head is away for some seconds")
def test_drain_waits_for_unavailable_head(served: Served) -> None:
    staying, leaving = served.homes("tiny")
    node = served.cluster.node_at(leaving)
    drain = [sys.executable, "-P", "-m", "deployments.drain"]
    with served.load("tiny", staying) as load, ThreadPoolExecutor(1) as executor:
        served.cluster.head.kill()
        draining = executor.submit(
            served.cluster.run_on, node, "env", f"{DRAIN_START_VARIABLE}=60", *drain
        )
        time.sleep(3)
        served.cluster.start_head()
        done = draining.result()
        assert done.returncode == 0, done
        node.kill()
        served.wait_for(2)
    assert not load.failed, load.summary()
    measured("a node drains while the head is away: requests failed", load.failures, "0")

"""Node that is killed or unreachable: the other nodes still answer."""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from figures import measured
from ray_nodes import NODE_BACK_S, Nodes
from served_nodes import Served

REPLICA_BACK_S = 5


@pytest.mark.parametrize("retried", [False, True])
@pytest.mark.fault("a replica is killed")
def test_killed_replica_fails_only_its_requests_and_is_replaced(
    served: Served, first_start_s: float, retried: bool
) -> None:
    """HAProxy retries on a new connection; on a reused one it closes the client's."""
    entry, other = served.homes("tiny")
    clients, before = 4, served.replica_ids("tiny")
    with served.load("tiny", entry, clients=clients, keep=not retried) as load:
        time.sleep(1)
        started = time.monotonic()
        killed = served.cluster.run_on(
            served.cluster.node_at(other), "pkill", "-KILL", "-f", "^ray::ServeReplica:tiny"
        )
        assert killed.returncode == 0, killed
        served.cluster.wait(
            lambda: served.replica_ids("tiny") != before and served.tiny_is_whole(2),
            "the replica is not replaced",
            60,
        )
        seconds = time.monotonic() - started
        served.wait_for(2)
    connections = "each on a connection of its own" if retried else "on kept connections"
    goal = 0 if retried else clients
    measured(f"a replica is killed: requests failed, {connections}", load.failures, f"≤ {goal}")
    measured(
        "... another one runs, and every HAProxy knows it",
        f"{seconds:.1f} s",
        f"≤ {REPLICA_BACK_S} s",
    )
    # HAProxy cannot retry once the client has the beginning of the answer.
    partial = [request for request in load.failed if request.reason.startswith("IncompleteRead")]
    assert len(load.failed) - len(partial) <= goal, load.summary()
    assert len(load.failed) <= clients, load.summary()
    assert seconds <= REPLICA_BACK_S + first_start_s  # the first start depends on the machine


@pytest.mark.fault("all processes of a node are killed")
def test_killed_node_fails_only_in_flight_and_is_replaced(
    served: Served, first_start_s: float
) -> None:
    entry, other = served.homes("tiny")
    clients = 4
    with served.load("tiny", entry, clients=clients) as load:
        time.sleep(1)
        served.cluster.node_at(other).kill()
        seconds = served.wait_for(2, timeout_s=60)
    assert len(load.failed) <= clients, load.summary()
    assert other not in served.homes("tiny")
    measured(
        "all processes of a node are killed: requests failed", len(load.failed), f"≤ {clients}"
    )
    measured("... both applications whole again", f"{seconds:.1f} s", f"≤ {NODE_BACK_S} s")
    assert seconds <= NODE_BACK_S + first_start_s  # the first start depends on the machine


@pytest.mark.slow
@pytest.mark.fault("a node's link is cut, no reset")
def test_node_with_cut_link_is_replaced_and_ends_when_mended(
    served: Served, first_start_s: float
) -> None:
    """No connection is closed: only timeouts detect the fault. In-flight requests there fail."""
    entry, other = served.homes("tiny")
    node = served.cluster.node_at(other)
    clients = 6
    with served.load("tiny", entry, clients=clients) as load:
        time.sleep(1)
        cut_at = time.monotonic()
        node.host.cut()
        wait = served.cluster.wait
        declared_dead_s = wait(
            lambda: other not in served.cluster.alive(), "still listed as alive", 60
        )
        tiny_s = declared_dead_s + wait(lambda: served.tiny_is_whole(2), "tiny is not whole", 60)
        seconds = tiny_s + served.wait_for(2)
        node.host.mend()
        # Its raylet learns that it was declared dead, and ends with all its processes.
        served.cluster.wait(lambda: not node.runs, "the node still runs", 60)
    # Requests that HAProxy had sent there; their clients send no others in that time.
    assert len(load.failed) <= clients, load.summary()
    assert all(request.started < cut_at + 5 for request in load.failed), load.summary()
    assert other not in served.cluster.alive()
    measured("a node's link is cut: requests failed", len(load.failed), f"≤ {clients}")
    measured("... the head gives it up", f"{declared_dead_s:.1f} s")
    measured("... the model of two replicas whole again", f"{tiny_s:.1f} s", f"≤ {NODE_BACK_S} s")
    measured("... the model in two stages, too", f"{seconds:.1f} s", f"≤ {NODE_BACK_S} s")
    assert declared_dead_s <= NODE_BACK_S
    assert seconds <= NODE_BACK_S + first_start_s  # the first start depends on the machine


@pytest.mark.slow
def test_call_between_nodes_may_take_a_minute(cluster: Nodes) -> None:
    """The timeout of calls to a silent node must not end calls that wait for an answer."""
    first, second = cluster.running[:2]
    calling = Path(__file__).with_name("long_call.py")
    done = cluster.run_on(first, sys.executable, str(calling), second.host.address)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("60\n"), done.stdout


@pytest.mark.slow
@pytest.mark.fault("30 % of packets lost, one way")
def test_link_with_packet_loss_fails_no_request(served: Served) -> None:
    entry, other = served.homes("tiny")
    lossy = served.cluster.node_at(other).host
    with served.load("tiny", entry, clients=4) as load:
        lossy.lose(30)
        before = served.requests_by_server(entry)
        time.sleep(12)
        after = served.requests_by_server(entry)
        lossy.mend()
    assert all(after[server] > before[server] + 10 for server in before), (before, after)
    slowest = max(request.ended - request.started for request in load.requests)
    assert not load.failed, load.summary()
    assert len(load.requests) > 100
    measured("30 % of packets lost one way: requests failed", len(load.failed), "0")
    measured("... slowest request", f"{slowest:.1f} s")


@pytest.mark.slow
@pytest.mark.fault("30 % of packets lost between two stages of a model")
def test_stages_answer_over_lossy_link(served: Served) -> None:
    homes = served.spread_cut()
    (entry,) = served.homes("cut")
    # The link of a shard that is on another node than its replica's process.
    apart = next(home for home in homes if home != entry)
    lossy = served.cluster.node_at(apart).host
    with served.load("cut", entry) as load:
        lossy.lose(30)
        time.sleep(10)
        lossy.mend()
        time.sleep(1)
    # A shard that is silent for `failure_timeout_s` ends its replica: 503, to be retried. A request
    # in flight to its process gets HAProxy's 502.
    failed = Counter(request.status for request in load.failed)
    assert failed[502] <= load.clients, load.summary()
    assert set(failed) <= {502, 503}, load.summary()
    assert len(load.requests) - len(load.failed) > 20, load.summary()
    measured("30 % lost between two stages: failed, of all", load.failures)
    served.wait_for(2, timeout_s=60)

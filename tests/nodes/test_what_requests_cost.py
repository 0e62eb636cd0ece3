"""Cost of Ray and Headrace without the models: figures for planning capacity."""

from __future__ import annotations

import time

import pytest
from costs import Process, memory_bytes, processes
from figures import measured
from served_nodes import REPLICA_PORTS, Served

pytestmark = pytest.mark.slow

MIB = 2**20
REPLICA, HAPROXY = "ray::ServeReplica:tiny", "haproxy -"
IDLE_S = 20


def test_idle_head_node_and_replica_use_bounded_memory_and_cpu(served: Served) -> None:
    home = served.cluster.node_at(served.homes("tiny")[0])
    time.sleep(2)
    head = processes(served.cluster.head)
    replicas = processes(home, REPLICA)
    node = [process for process in processes(home) if "ServeReplica" not in process.command]
    node = [process for process in node if "ShardActor" not in process.command]
    before = {process.pid: process.cpu_s for process in [*head, *node, *replicas]}
    time.sleep(IDLE_S)
    for what, group in (("the head", head), ("a node", node), ("a replica", replicas)):
        memory = memory_bytes(group) / MIB
        cpu = sum(max(0, process.cpu_s - before[process.pid]) for process in group) / IDLE_S
        measured(f"{what}, idle: memory", f"{memory:.0f} MiB")
        measured("... of a core", f"{cpu:.1%}")
        assert 0 < memory < 2500
        assert cpu < 1


def test_request_and_health_check_costs_are_measured(served: Served) -> None:
    served.deploy(replicas=1)  # every request goes to this replica
    (address,) = served.homes("tiny")
    home = served.cluster.node_at(address)
    time.sleep(2)  # its HAProxy has reloaded
    (replica,) = processes(home, REPLICA)
    haproxies = processes(home, HAPROXY)
    before = replica.cpu_s, _cpu_s(haproxies)
    with served.load("tiny", address, clients=4) as load:
        time.sleep(6)
    assert not load.failed, load.summary()
    count = len(load.requests)
    measured("a request of 1 KB: CPU of the replica", _ms(replica.cpu_s - before[0], count))
    measured("... of HAProxy", _ms(_cpu_s(haproxies) - before[1], count))

    (port,) = [port for port in replica.ports if port in REPLICA_PORTS]
    before_checks, started = replica.cpu_s, time.monotonic()
    checks = 0
    while time.monotonic() - started < 4:
        checks += served.ask(address, "/-/healthz", port=port).status == 200
    measured("a health check: CPU of the replica", _ms(replica.cpu_s - before_checks, checks))
    assert checks > 100


def _cpu_s(group: list[Process]) -> float:
    return sum(process.cpu_s for process in group)


def _ms(seconds: float, count: int) -> str:
    return f"{1e3 * seconds / count:.2f} ms"

"""What Ray and Headrace cost beside the models: the figures that capacity is reckoned with."""

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


def test_what_the_head_a_node_and_a_replica_take_while_nothing_is_asked(served: Served) -> None:
    home = served.cluster.node_at(served.homes("tiny")[0])
    time.sleep(2)
    head = processes(served.cluster.head)
    replicas = processes(home, REPLICA)
    node = [each for each in processes(home) if "ServeReplica" not in each.command]
    node = [each for each in node if "ShardActor" not in each.command]
    before = {each.pid: each.cpu_s for each in [*head, *node, *replicas]}
    time.sleep(IDLE_S)
    for what, found in (("the head", head), ("a node", node), ("a replica", replicas)):
        memory = memory_bytes(found) / MIB
        cpu = sum(max(0, each.cpu_s - before[each.pid]) for each in found) / IDLE_S
        measured(f"{what}, idle: memory", f"{memory:.0f} MiB")
        measured("... of a core", f"{cpu:.1%}")
        assert 0 < memory < 2500
        assert cpu < 1


def test_what_a_request_and_a_health_check_take(served: Served) -> None:
    served.deploy(replicas=1)  # so that every request goes to the one that is watched
    (address,) = served.homes("tiny")
    home = served.cluster.node_at(address)
    time.sleep(2)  # its HAProxy has been told, and was started anew for it
    (replica,) = processes(home, REPLICA)
    haproxies = processes(home, HAPROXY)
    before = replica.cpu_s, _cpu_s(haproxies)
    with served.load("tiny", address, clients=4) as load:
        time.sleep(6)
    assert not load.failed, load.told()
    asked = len(load.asked)
    measured("a request of 1 KB: CPU of the replica", _ms(replica.cpu_s - before[0], asked))
    measured("... of HAProxy", _ms(_cpu_s(haproxies) - before[1], asked))

    (port,) = [each for each in replica.ports if each in REPLICA_PORTS]
    before_checks, started = replica.cpu_s, time.monotonic()
    checks = 0
    while time.monotonic() - started < 4:
        checks += served.ask(address, "/-/healthz", port=port).status == 200
    measured("a health check: CPU of the replica", _ms(replica.cpu_s - before_checks, checks))
    assert checks > 100


def _cpu_s(found: list[Process]) -> float:
    return sum(each.cpu_s for each in found)


def _ms(seconds: float, count: int) -> str:
    return f"{1e3 * seconds / count:.2f} ms"

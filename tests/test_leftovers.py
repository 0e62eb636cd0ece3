"""Check for leftovers after a fault: processes, actors and placement groups without a replica."""

from __future__ import annotations

import pytest
from support.leftovers import Process, left_behind, wait_for_nothing_left

from cluster.errors import ClusterError
from deployments.ray.names import moved_shards

REPLICA = "SERVE_REPLICA::tiny#model-tiny#abc123"
APPLICATIONS = {
    "tiny": {
        "deployments": {"model-tiny": {"replicas": [{"replica_id": "abc123", "actor_id": "a1"}]}}
    }
}


def actor(pid: int, class_name: str, name: str, actor_id: str, group: str = "g1") -> dict:
    return {
        "node": "n",
        "pid": pid,
        "class_name": class_name,
        "name": name,
        "actor_id": actor_id,
        "state": "ALIVE",
        "placement_group_id": group,
    }


ACTORS = [
    actor(10, "ServeReplica:tiny:model-tiny", REPLICA, "a1"),
    actor(11, "ShardActor", f"{REPLICA}#stage-0.rank-0", "a2"),
    actor(12, "HAProxyManager", "proxy", "a3"),
]
PROCESSES = [
    Process("n", 10, 1, "ray::ServeReplica:tiny:model-tiny "),
    Process("n", 11, 1, "ray::ShardActor.run "),
    Process("n", 12, 1, "ray::HAProxyManager "),
    Process("n", 13, 12, "/bin/haproxy -db -f x "),
    Process("n", 14, 1, "ray::IDLE "),
]
MOVED = moved_shards(REPLICA, 1)
GROUPS = [{"name": REPLICA, "state": "CREATED", "placement_group_id": "g1"}]


def test_serving_processes_are_no_leftovers() -> None:
    assert left_behind(APPLICATIONS, ACTORS, GROUPS, PROCESSES) == []


@pytest.mark.parametrize(
    ("actors", "groups", "processes", "message"),
    [
        (ACTORS[1:], GROUPS, PROCESSES, "'ray::ServeReplica:tiny:model-tiny': no living actor"),
        (ACTORS, GROUPS, [Process("n", 20, 1, "ray::ShardActor ")], "no living actor"),
        (ACTORS, GROUPS, [Process("m", 11, 1, "ray::ShardActor ")], "no living actor"),
        (ACTORS, GROUPS, [Process("n", 20, 1, "ray::HAProxyManager ")], "no living actor"),
        (ACTORS, GROUPS, [Process("n", 20, 1, "ray::ServeController.run ")], "no living actor"),
        (ACTORS, GROUPS, [Process("n", 13, 1, "/bin/haproxy -db ")], "whose manager is gone"),
        (
            [actor(30, "ServeReplica:tiny:model-tiny", REPLICA, "a9")],
            GROUPS,
            [],
            "that Serve does not know",
        ),
        (
            [actor(31, "ShardActor", REPLICA[:-1] + "9#stage-0.rank-0", "a8")],
            GROUPS,
            [],
            "a shard of a replica that is gone",
        ),
        (
            [*ACTORS, actor(32, "ShardActor", f"{REPLICA}#stage-0.rank-0.move-1", "a7")],
            [],
            [],
            "another one is the same shard",
        ),
        (ACTORS, [{"name": REPLICA + "x", "state": "PENDING"}], [], "a replica that is gone"),
        (
            ACTORS,
            [{"name": MOVED, "state": "CREATED", "placement_group_id": "g2"}],
            [],
            "nothing of its replica runs in it",
        ),
        (
            [
                *ACTORS,
                actor(33, "ShardActor", f"{REPLICA}#stage-1.rank-0.move-1", "a7", group="g2"),
            ],
            [{"name": MOVED, "state": "CREATED", "placement_group_id": "g2"}],
            [],
            "a move of its shards is not over",
        ),
        (
            ACTORS,
            [*GROUPS, {"name": MOVED, "state": "PENDING", "placement_group_id": "g2"}],
            [],
            "a move of its shards is not over",
        ),
    ],
)
def test_leftover_is_named(actors, groups, processes, message: str) -> None:
    (leftover,) = left_behind(APPLICATIONS, actors, groups, processes)
    assert message in leftover


def test_deployment_without_status_is_not_checked() -> None:
    unnamed = {"tiny": {"deployments": {}}}
    assert left_behind(unnamed, ACTORS, GROUPS, PROCESSES) == []


def test_removed_group_is_no_leftover() -> None:
    removed = [{"name": REPLICA + "x", "state": "REMOVED"}]
    assert left_behind(APPLICATIONS, ACTORS, removed, PROCESSES) == []


def test_failed_query_is_repeated() -> None:
    answers = iter([ClusterError("not yet"), ["an orphan"], []])

    def look() -> list[str]:
        answer = next(answers)
        if isinstance(answer, ClusterError):
            raise answer
        return answer

    wait_for_nothing_left(look, poll_s=0)
    assert list(answers) == []


def test_persistent_leftover_is_reported() -> None:
    with pytest.raises(AssertionError, match="left behind:\nan orphan"):
        wait_for_nothing_left(lambda: ["an orphan"], within_s=0)

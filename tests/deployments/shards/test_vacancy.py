"""Reason that a replica is pending: the bundle without room, and the free resources."""

from __future__ import annotations

from deployments.shards.vacancy import Allocation, ClusterNode, pending_reason

TWO = [
    ClusterNode("a", "10.0.0.1", {"CPU": 2.0, "memory": 8.0}),
    ClusterNode("b", "10.0.0.2", {"CPU": 4.0}),
]
SHARD = {"CPU": 1.0}


def test_reason_names_first_bundle_without_room() -> None:
    allocations = [
        Allocation("a", {"CPU": 1.5}),
        Allocation("b", {"CPU": 2.0}),
        Allocation("b", {"CPU": 1.0}),
    ]
    reason = pending_reason([{"memory": 1.0}, SHARD, {"CPU": 1.0, "GPU": 1.0}], TWO, allocations)
    assert reason == (
        "bundle 2 of 3 needs 1 CPU, 1 GPU; free after the others: "
        "10.0.0.1 0.5 of 2 CPU, 0 of 0 GPU; 10.0.0.2 0 of 4 CPU, 0 of 0 GPU"
    )


def test_reason_counts_earlier_bundles() -> None:
    allocations = [Allocation("a", {"CPU": 2.0})]
    assert pending_reason([SHARD] * 4, TWO, allocations).startswith("every bundle has room")
    assert pending_reason([SHARD] * 5, TWO, allocations) == (
        "bundle 4 of 5 needs 1 CPU; free after the others: 10.0.0.1 0 of 2 CPU; 10.0.0.2 0 of 4 CPU"
    )


def test_reason_ignores_allocations_of_unknown_nodes() -> None:
    assert "every bundle" in pending_reason([SHARD], TWO, [Allocation("c", {"CPU": 100.0})])
    assert pending_reason([SHARD], [], []) == "bundle 0 of 1 needs 1 CPU; free: no node"

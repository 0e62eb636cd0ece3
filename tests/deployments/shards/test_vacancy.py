"""Which bundle of a replica has no room, and what is left of what it needs."""

from __future__ import annotations

from deployments.shards.vacancy import Node, Taken, lacking

TWO = [Node("a", "10.0.0.1", {"CPU": 2.0, "memory": 8.0}), Node("b", "10.0.0.2", {"CPU": 4.0})]
SHARD = {"CPU": 1.0}


def test_the_first_bundle_without_room_is_named_with_what_is_free() -> None:
    taken = [Taken("a", {"CPU": 1.5}), Taken("b", {"CPU": 2.0}), Taken("b", {"CPU": 1.0})]
    said = lacking([{"memory": 1.0}, SHARD, {"CPU": 1.0, "GPU": 1.0}], TWO, taken)
    assert said == (
        "bundle 2 of 3 needs 1 CPU, 1 GPU; free behind the others: "
        "10.0.0.1 0.5 of 2 CPU, 0 of 0 GPU; 10.0.0.2 0 of 4 CPU, 0 of 0 GPU"
    )


def test_bundles_before_it_take_their_room() -> None:
    taken = [Taken("a", {"CPU": 2.0})]
    assert lacking([SHARD] * 4, TWO, taken).startswith("every bundle has room")
    assert lacking([SHARD] * 5, TWO, taken) == (
        "bundle 4 of 5 needs 1 CPU; free behind the others: 10.0.0.1 0 of 2 CPU; "
        "10.0.0.2 0 of 4 CPU"
    )


def test_what_runs_on_a_node_that_is_gone_takes_nothing() -> None:
    assert "every bundle" in lacking([SHARD], TWO, [Taken("c", {"CPU": 100.0})])
    assert lacking([SHARD], [], []) == "bundle 0 of 1 needs 1 CPU; free: no node"

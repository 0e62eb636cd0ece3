"""Names of shards and of their placement groups, written and parsed."""

from __future__ import annotations

import pytest
from ray.serve._private.common import ReplicaID

from deployments.ray.names import (
    ShardName,
    moved_shards,
    parse_replica,
    parse_shard_actor,
    shard_actor,
)

REPLICA = "SERVE_REPLICA::digits#model-digits#xk3f9a2b"


@pytest.mark.parametrize("move", [0, 1, 12])
def test_shard_name_is_parsed_after_any_move(move: int) -> None:
    name = shard_actor(REPLICA, 1, 0, move)
    assert parse_shard_actor(name) == ShardName("digits", "xk3f9a2b", 1, 0)
    assert parse_replica(name) is None


def test_actors_of_one_shard_have_different_names() -> None:
    assert len({shard_actor(REPLICA, 0, 0, move) for move in range(3)}) == 3


def test_group_of_moved_shards_is_no_replica_of_serve() -> None:
    """A restarted controller removes the groups of unknown replicas."""
    assert ReplicaID.is_full_id_str(REPLICA)
    assert not ReplicaID.is_full_id_str(moved_shards(REPLICA, 1))


def test_placement_group_name_is_parsed_as_replica() -> None:
    assert parse_replica(REPLICA) == ("digits", "xk3f9a2b")
    assert parse_replica(moved_shards(REPLICA, 3)) == ("digits", "xk3f9a2b")
    assert parse_replica("SERVE_REPLICA::server#catalog#xk3f9a2b") is None

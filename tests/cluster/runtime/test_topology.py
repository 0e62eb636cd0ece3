"""Numbering of shards: written out for a small pipeline, consistent for all."""

from __future__ import annotations

import itertools

import pytest

from cluster.runtime.topology import REPLICA, Topology


def test_topology_numbers_shards_stage_by_stage() -> None:
    topology = Topology(stages=2, tensor_ranks=2)
    assert topology.size == 5
    assert topology.entries == [1, 2]
    assert topology.exit == 3
    assert [topology.tensor_group(stage) for stage in (0, 1)] == [[1, 2], [3, 4]]
    assert {shard: topology.targets(*shard) for shard in topology.shards} == {
        (0, 0): [3],
        (0, 1): [4],
        (1, 0): [REPLICA],
        (1, 1): [],
    }


@pytest.mark.parametrize(("stages", "tensor_ranks"), list(itertools.product((1, 2, 3), (1, 2, 4))))
def test_every_source_has_matching_target(stages: int, tensor_ranks: int) -> None:
    topology = Topology(stages, tensor_ranks)
    ranks = [topology.rank(*shard) for shard in topology.shards]
    assert ranks == list(range(1, topology.size))
    sent = {(REPLICA, entry) for entry in topology.entries} | {
        (topology.rank(*shard), target)
        for shard in topology.shards
        for target in topology.targets(*shard)
    }
    received = {(topology.source(*s), topology.rank(*s)) for s in topology.shards}
    assert sent == received | {(topology.exit, REPLICA)}


@pytest.mark.parametrize(("stages", "tensor_ranks"), [(0, 1), (1, 0), (-1, 1)])
def test_topology_rejects_empty_dimensions(stages: int, tensor_ranks: int) -> None:
    with pytest.raises(ValueError, match="1 or more of each"):
        Topology(stages, tensor_ranks)


@pytest.mark.parametrize("shard", [(2, 0), (0, 2), (-1, 0)])
def test_topology_rejects_unknown_shard(shard: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="unknown shard"):
        Topology(2, 2).rank(*shard)

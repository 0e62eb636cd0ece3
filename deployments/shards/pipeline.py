"""The shards of a replica, connected: what a micro-batch goes through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError

from cluster.errors import GroupLostError, TransportError
from cluster.runtime.gloo import Address, GlooTransport
from cluster.runtime.shard import ShardFigures
from cluster.runtime.shard_group import ShardGroup
from cluster.runtime.topology import REPLICA, Topology
from deployments.shards.actor import node_ip
from deployments.shards.members import Member, Replica, Shard, first_line

MICRO_BATCH_TIMEOUTS = 10
"""A micro-batch may take so many times as long as a shard may be silent: a shard that answers and
still finishes nothing is stuck in its program."""

Figures = Mapping[Shard, ShardFigures]


@dataclass(frozen=True)
class Pipeline:
    """All shards of a replica, while they serve together."""

    members: Sequence[Member]
    group: ShardGroup
    serving: Mapping[Any, Member]
    """Call → the member that serves until it returns."""

    def close(self, timeout_s: float) -> Figures:
        """Stop serving, after at most ``timeout_s`` if a shard hangs; what the shards have done.

        The members live on, and can be connected anew.
        """
        self.group.close(timeout_s)
        asked = [member.actor.figures.remote() for member in self.members]
        found = ray.get(asked, timeout=timeout_s)
        return dict(zip([member.shard for member in self.members], found, strict=True))


def connect(
    replica: Replica,
    members: Sequence[Member],
    meeting: Address,
    *,
    lanes: int,
    timeout_s: float,
    sizes: Sequence[int],
    before: Figures,
) -> Pipeline:
    """Connect members that have loaded, and send a batch of each of the ``sizes`` through them.

    ``before``: what shards have done until now. TransportError, naming a shard if one says why, if
    not all have come within ``timeout_s``.
    """
    layout, none = replica.layout, ShardFigures()
    serving = {
        member.actor.serve.remote(meeting, timeout_s, before.get(member.shard, none)): member
        for member in members
    }
    topology = Topology(layout.pipeline, layout.tensor)
    try:
        group = ShardGroup(
            GlooTransport(meeting, REPLICA, topology.size, node_ip(), timeout_s),
            topology.stages,
            topology.tensor_ranks,
            lanes,
            replica.settings.failure_timeout_s * MICRO_BATCH_TIMEOUTS,
        )
        try:
            for size in sizes:
                group.run([spec.zeros(size) for spec in layout.crossing[0]])
        except BaseException:
            group.close(0)
            raise
    except (TransportError, GroupLostError) as error:
        done, _ = ray.wait(list(serving), timeout=1)
        said = why(serving[done[0]], done[0]) if done else "No shard says why"
        raise TransportError(f"{error}. {said}") from error
    return Pipeline(members, group, serving)


def why(member: Member, serving: Any) -> str:
    """Why a member's call to serve has returned."""
    try:
        ray.get(serving, timeout=0)
    except (RayError, GetTimeoutError) as error:
        return f"{member.name}: {first_line(error)}"
    return f"{member.name} stopped"

"""Connected shards of a replica.

members, loaded → serve() of each, a ShardGroup in the replica → a batch of each size → Pipeline
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError

from cluster.errors import GroupLostError, TransportError
from cluster.runtime.gloo import Address, GlooTransport
from cluster.runtime.shard import ShardCounters
from cluster.runtime.shard_group import ShardGroup
from cluster.runtime.topology import REPLICA, Topology
from deployments.shards.actor import node_ip
from deployments.shards.members import Member, ShardedReplica, ShardPosition, first_line

MICRO_BATCH_TIMEOUTS = 10
"""Timeout of a micro-batch, as a multiple of the heartbeat timeout.

A shard that sends heartbeats and finishes no micro-batch hangs in its program."""

Counters = Mapping[ShardPosition, ShardCounters]


@dataclass(frozen=True)
class Pipeline:
    """Shards of a replica that serve together."""

    members: Sequence[Member]
    group: ShardGroup
    serving: Mapping[Any, Member]
    """Call of serve(), which returns when the member stops serving → the member."""

    def close(self, timeout_s: float) -> Counters:
        """Stop serving, within ``timeout_s`` even if a shard hangs; return the shards' counters.

        The members stay alive, and can be connected again.
        """
        self.group.close(timeout_s)
        calls = [member.actor.counters.remote() for member in self.members]
        counters = ray.get(calls, timeout=timeout_s)
        return dict(zip([member.shard for member in self.members], counters, strict=True))


def connect(
    replica: ShardedReplica,
    members: Sequence[Member],
    meeting: Address,
    *,
    lanes: int,
    timeout_s: float,
    sizes: Sequence[int],
    before: Counters,
) -> Pipeline:
    """Connect loaded members, and send a batch of each of the ``sizes`` through them.

    ``before``: counters of the shards so far. Raises TransportError, with a shard's reason if there
    is one, if not all connect within ``timeout_s``.
    """
    layout, none = replica.layout, ShardCounters()
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
        reason = end_reason(serving[done[0]], done[0]) if done else "No shard reports a reason"
        raise TransportError(f"{error}. {reason}") from error
    return Pipeline(members, group, serving)


def end_reason(member: Member, serving: Any) -> str:
    """Return the reason that a member's call of serve() has returned."""
    try:
        ray.get(serving, timeout=0)
    except (RayError, GetTimeoutError) as error:
        return f"{member.name}: {first_line(error)}"
    return f"{member.name} stopped"

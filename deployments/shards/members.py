"""Shards of a replica as actors, each in a bundle of a placement group.

place → ShardActors start → load → each has its program, and each stage the sums of its ranks
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from cluster.artifact.layout import Layout
from cluster.artifact.served import BoundModel
from cluster.config.parallel import Parallel
from cluster.errors import TransportError
from cluster.parallel import plan
from deployments.ray.names import shard_actor
from deployments.shards.actor import ShardActor, ShardHome, ShardSpec

logger = logging.getLogger("ray.serve")

ShardPosition = tuple[int, int]
"""Stage and tensor rank."""


@dataclass(frozen=True)
class ShardedReplica:
    """Replica of a sharded model: its actor, its model and its layout."""

    name: str
    """Name of the replica's actor."""
    model: BoundModel
    layout: Layout

    @property
    def settings(self) -> Parallel:
        """The model's ``parallel``."""
        if self.model.args.parallel is None:
            raise ValueError("the model's args have no `parallel`")
        return self.model.args.parallel

    @property
    def bundles(self) -> tuple[dict[str, float], ...]:
        """Bundles of the replica: first that of its own process, then one for each shard."""
        shards = len(self.layout.shards)
        return plan.bundles(self.layout.target, shards, self.model.args.compute_threads)

    @property
    def bundle_of(self) -> dict[ShardPosition, int]:
        """Index in :attr:`bundles` of each shard."""
        shards = enumerate(self.layout.shards, start=1)
        return {(shard.stage, shard.tp_rank): index for index, shard in shards}


@dataclass(frozen=True, eq=False)
class Member:
    """Actor of one shard, its placement group and its node."""

    shard: ShardPosition
    actor: Any
    group: PlacementGroup
    node_id: str = ""
    """Id of its node; empty before it is loaded."""

    @property
    def name(self) -> str:
        """Name in messages."""
        return "stage {}, rank {}".format(*self.shard)


def place(
    replica: ShardedReplica,
    group: PlacementGroup,
    bundles: Mapping[ShardPosition, int],
    move: int = 0,
) -> list[Member]:
    """Start the actors of some shards, each in its bundle of ``group``, without waiting for them.

    ``move``: number of the move that they are part of, for their names; 0: no move.
    """
    members = []
    for (stage, tp_rank), bundle in bundles.items():
        resources = replica.bundles[replica.bundle_of[stage, tp_rank]]
        spec = ShardSpec(
            model=replica.model,
            layout=replica.layout.key,
            stage=stage,
            tp_rank=tp_rank,
            failure_timeout_s=replica.settings.failure_timeout_s,
        )
        actor = (
            ray.remote(ShardActor)
            .options(
                name=shard_actor(replica.name, stage, tp_rank, move),
                num_cpus=resources.get("CPU", 0),
                num_gpus=resources.get("GPU", 0),
                max_concurrency=3,  # serve() occupies one thread, counters() another
                max_restarts=0,
                scheduling_strategy=PlacementGroupSchedulingStrategy(
                    group, placement_group_bundle_index=bundle
                ),
            )
            .remote(spec)
        )
        members.append(Member((stage, tp_rank), actor, group))
    return members


def load(replica: ShardedReplica, placed: Sequence[Member]) -> list[Member]:
    """Load the programs of shards; rank 0 of each stage first, because the other ranks join it.

    Raises TransportError with the shard's name if one fails, or takes over ``start_timeout_s``. If
    not all ranks of a stage are given, the others are loaded already, and the stage adds over the
    transport.
    """
    deadline = time.monotonic() + replica.settings.start_timeout_s

    def results(calls: Sequence[tuple[Member, Any]]) -> list[Any]:
        return _results(calls, deadline, replica.settings.start_timeout_s)

    homes: list[ShardHome] = results([(member, member.actor.home.remote()) for member in placed])
    members = [
        replace(member, node_id=home.node_id) for member, home in zip(placed, homes, strict=True)
    ]
    for member, home in zip(placed, homes, strict=True):
        logger.info(
            "%s: node %s (%s), process %d", member.name, home.node_id[:8], home.ip, home.pid
        )
    nodes: dict[int, list[str]] = {}
    for member in members:
        nodes.setdefault(member.shard[0], []).append(member.node_id)

    def on_same_node(stage: int) -> bool:
        return len(nodes[stage]) == replica.layout.tensor and len(set(nodes[stage])) == 1

    first = [member for member in members if member.shard[1] == 0]
    others = [member for member in members if member.shard[1] != 0]
    addresses = results([(m, m.actor.load.remote(on_same_node(m.shard[0]), None)) for m in first])
    groups = {m.shard[0]: group for m, group in zip(first, addresses, strict=True)}
    joining = [(member, groups.get(member.shard[0])) for member in others]
    results([(m, m.actor.load.remote(group is not None, group)) for m, group in joining])
    return members


def end(members: Iterable[Member]) -> None:
    """End the processes of members."""
    for member in members:
        ray.kill(member.actor)


def first_line(error: Exception) -> str:
    """Return the reason in an error of Ray: its last line that is not empty."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _results(calls: Sequence[tuple[Member, Any]], deadline: float, timeout_s: float) -> list[Any]:
    """Return the results of calls; TransportError with the shard's name if one fails or is late."""
    if not calls:
        return []
    refs = [ref for _, ref in calls]
    _, late = ray.wait(refs, num_returns=len(refs), timeout=max(0.0, deadline - time.monotonic()))
    if late:
        names = [member.name for member, ref in calls if ref in late]
        raise TransportError(
            f"{', '.join(names)} did not load within {timeout_s:g} s; increase "
            "parallel.start_timeout_s, or check whether their nodes are overloaded"
        )
    for member, ref in calls:
        try:
            ray.get(ref)
        except RayError as error:
            raise TransportError(f"{member.name}: {first_line(error)}") from error
    return list(ray.get(refs))

"""The shards of a replica as actors, each in a bundle of a placement group.

place → ShardActors that start → load → each has its program, and each stage its ranks' sums
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

Shard = tuple[int, int]
"""Stage and tensor rank."""


@dataclass(frozen=True)
class Replica:
    """What the shards of one replica have in common."""

    name: str
    """Of the replica's own actor."""
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
        """What it asks of Ray: first for its own process, then for each shard of the layout."""
        shards = len(self.layout.shards)
        return plan.bundles(self.layout.target, shards, self.model.args.compute_threads)

    @property
    def bundle_of(self) -> dict[Shard, int]:
        """Which of :attr:`bundles` is which shard's."""
        shards = enumerate(self.layout.shards, start=1)
        return {(shard.stage, shard.tp_rank): index for index, shard in shards}


@dataclass(frozen=True, eq=False)
class Member:
    """One shard's actor, and where it runs."""

    shard: Shard
    actor: Any
    group: PlacementGroup
    node_id: str = ""
    """Known once it is loaded."""

    @property
    def name(self) -> str:
        """For people."""
        return "stage {}, rank {}".format(*self.shard)


def place(
    replica: Replica, group: PlacementGroup, bundles: Mapping[Shard, int], move: int = 0
) -> list[Member]:
    """Start the actors of some shards, each in its bundle of ``group``; nothing is waited for.

    ``move``: the number of the move that brings them there, which is part of their names; 0 for
    none.
    """
    members = []
    for (stage, tp_rank), bundle in bundles.items():
        wanted = replica.bundles[replica.bundle_of[stage, tp_rank]]
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
                num_cpus=wanted.get("CPU", 0),
                num_gpus=wanted.get("GPU", 0),
                max_concurrency=3,  # serve() takes one thread, the figures another
                max_restarts=0,
                scheduling_strategy=PlacementGroupSchedulingStrategy(
                    group, placement_group_bundle_index=bundle
                ),
            )
            .remote(spec)
        )
        members.append(Member((stage, tp_rank), actor, group))
    return members


def load(replica: Replica, placed: Sequence[Member]) -> list[Member]:
    """Have shards load their programs; rank 0 of each stage first, whom the others join.

    TransportError, naming the shard, if one has not in ``start_timeout_s``, or cannot. The ranks
    of a stage of which not all are given reduce over the transport: the others have loaded before.
    """
    deadline = time.monotonic() + replica.settings.start_timeout_s

    def heard(asked: Sequence[tuple[Member, Any]]) -> list[Any]:
        return _heard(asked, deadline, replica.settings.start_timeout_s)

    homes: list[ShardHome] = heard([(member, member.actor.home.remote()) for member in placed])
    found = [
        replace(member, node_id=home.node_id) for member, home in zip(placed, homes, strict=True)
    ]
    for member, home in zip(placed, homes, strict=True):
        logger.info(
            "%s: node %s (%s), process %d", member.name, home.node_id[:8], home.ip, home.pid
        )
    nodes: dict[int, list[str]] = {}
    for member in found:
        nodes.setdefault(member.shard[0], []).append(member.node_id)

    def together(stage: int) -> bool:
        return len(nodes[stage]) == replica.layout.tensor and len(set(nodes[stage])) == 1

    first = [member for member in found if member.shard[1] == 0]
    others = [member for member in found if member.shard[1] != 0]
    joined = heard([(m, m.actor.load.remote(together(m.shard[0]), None)) for m in first])
    groups = {m.shard[0]: group for m, group in zip(first, joined, strict=True)}
    asked = [(member, groups.get(member.shard[0])) for member in others]
    heard([(member, member.actor.load.remote(group is not None, group)) for member, group in asked])
    return found


def end(members: Iterable[Member]) -> None:
    """End their processes."""
    for member in members:
        ray.kill(member.actor)


def first_line(error: Exception) -> str:
    """What an error of Ray's comes down to: the last line that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _heard(asked: Sequence[tuple[Member, Any]], deadline: float, timeout_s: float) -> list[Any]:
    """What the shards answer; TransportError, naming it, for one that does not."""
    if not asked:
        return []
    refs = [ref for _, ref in asked]
    _, late = ray.wait(refs, num_returns=len(refs), timeout=max(0.0, deadline - time.monotonic()))
    if late:
        names = [member.name for member, ref in asked if ref in late]
        raise TransportError(
            f"{', '.join(names)} did not load within {timeout_s:g} s; raise "
            "parallel.start_timeout_s, or see whether their nodes are overloaded"
        )
    for member, ref in asked:
        try:
            ray.get(ref)
        except RayError as error:
            raise TransportError(f"{member.name}: {first_line(error)}") from error
    return list(ray.get(refs))

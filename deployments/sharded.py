"""A model over several devices: the replica's shards, started, fed and watched as one.

    start   placement group of the replica, bundle 0 its own
            → one ShardActor per further bundle → loaded → transport connected
    run     ShardGroup: arrays → stage 0 ⇒ stage 1 ⇒ … → arrays
    watch   a shard's serve() ends, or it gives no sign of life → the group fails, the replica ends

A lost shard is the loss of the replica: Serve starts another one, with all its shards.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util import get_current_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from cluster.artifact.artifact import Artifact
from cluster.artifact.layout import Layout
from cluster.config.parallel import Parallel
from cluster.config.serving import ModelArgs
from cluster.errors import GroupLostError, PlanError, TransportError
from cluster.parallel.plan import bundles
from cluster.runtime.gloo import Address, GlooTransport, Rendezvous
from cluster.runtime.shard import ShardFigures
from cluster.runtime.shard_group import ShardGroup
from cluster.runtime.topology import REPLICA, Topology
from deployments.names import shard_actor
from deployments.shard_actor import ShardActor, ShardHome, ShardSpec, node_ip

logger = logging.getLogger("ray.serve")

SIGN_OF_LIFE_S = 1.0
"""Seconds between two questions to every shard for its figures, or less, if it may be silent for
less than four times as long."""

MICRO_BATCH_TIMEOUTS = 10
"""A micro-batch may take so many times as long as a shard may be silent: a shard that answers and
still finishes nothing is stuck in its program."""

Report = Callable[[Sequence[ShardFigures]], None]


@dataclass(frozen=True)
class _Member:
    stage: int
    tp_rank: int
    actor: Any

    @property
    def name(self) -> str:
        return f"stage {self.stage}, rank {self.tp_rank}"


class ShardedProgram:
    """The shards of one replica; ``run`` is what a Batcher runs, on ``lanes`` threads."""

    def __init__(
        self, args: ModelArgs, artifact: Artifact, layout: Layout, report: Report,
        lost: Callable[[str], None],
    ) -> None:  # fmt: skip
        """Start them all; PlanError or TransportError, naming the shard, if one does not come.

        ``report`` gets the figures of all shards, by stage and rank, every second. ``lost`` is
        called once, with the reason, after the group has failed.
        """
        if args.parallel is None:
            raise ValueError("the model's args have no `parallel`")
        self._settings: Parallel = args.parallel
        self._report, self._lost = report, lost
        self._topology = Topology(layout.pipeline, layout.tensor)
        self.layout = layout
        self.lanes = self._settings.max_inflight or layout.pipeline + 1
        self._ended = threading.Event()
        self._members = self._placed(args, artifact, layout)
        try:
            sizes = {1, args.batching.max_batch_size, *(args.batching.buckets or ())}

            def warm_up(group: ShardGroup) -> None:
                for size in sorted(sizes):  # the first run of a size sets up its kernels
                    group.run([spec.zeros(size) for spec in layout.crossing[0]])

            self._group = self._connected(warm_up)
        except BaseException:
            self._end_shards()
            raise
        self._watcher = threading.Thread(target=self._watch, name="shards", daemon=True)
        self._watcher.start()

    def run(self, arrays: Sequence[np.ndarray]) -> tuple[list[np.ndarray], tuple[float, ...]]:
        """See :meth:`cluster.runtime.shard_group.ShardGroup.run_timed`."""
        return self._group.run_timed(arrays)

    @property
    def broken(self) -> str | None:
        """Why the group answers nothing any more, or None while it does."""
        return self._group.broken

    def close(self) -> None:
        """Stop the shards and end their processes."""
        self._ended.set()
        self._group.close()
        self._end_shards()

    # ------------------------------------------------------------------ starting

    def _placed(self, args: ModelArgs, artifact: Artifact, layout: Layout) -> list[_Member]:
        group = get_current_placement_group()
        wanted = bundles(layout.target, len(layout.shards), args.compute_threads)
        if group is None or group.bundle_count != len(wanted):
            has = "none" if group is None else f"one of {group.bundle_count}"
            raise PlanError(
                f"model {args.name}: {layout.key} needs a placement group of {len(wanted)} "
                f"bundles, the replica has {has}; deploy it by deployments.app:model"
            )
        replica = ray.get_runtime_context().get_actor_name() or args.name
        members = []
        for index, shard in enumerate(layout.shards, start=1):
            spec = ShardSpec(
                model=args,
                artifact_id=str(artifact.id),
                layout=layout.key,
                stage=shard.stage,
                tp_rank=shard.tp_rank,
                start_timeout_s=self._settings.start_timeout_s,
                failure_timeout_s=self._settings.failure_timeout_s,
            )
            actor = (
                ray.remote(ShardActor)
                .options(
                    name=shard_actor(replica, shard.stage, shard.tp_rank),
                    num_cpus=wanted[index].get("CPU", 0),
                    num_gpus=wanted[index].get("GPU", 0),
                    max_concurrency=3,  # serve() takes one thread, the figures another
                    max_restarts=0,
                    scheduling_strategy=PlacementGroupSchedulingStrategy(
                        group, placement_group_bundle_index=index
                    ),
                )
                .remote(spec)
            )
            members.append(_Member(shard.stage, shard.tp_rank, actor))
        return members

    def _connected(self, warm_up: Callable[[ShardGroup], None]) -> ShardGroup:
        deadline = time.monotonic() + self._settings.start_timeout_s
        meeting = Rendezvous(node_ip())  # while the shards' processes start
        try:
            self._load(deadline)
            return self._met(meeting.address, deadline, warm_up)
        finally:
            meeting.close()  # nobody meets any more

    def _met(
        self, meeting: Address, deadline: float, warm_up: Callable[[ShardGroup], None]
    ) -> ShardGroup:
        try:
            self._serving = {m.actor.serve.remote(meeting): m for m in self._members}
            transport = GlooTransport(
                meeting,
                REPLICA,
                self._topology.size,
                node_ip(),
                max(1.0, deadline - time.monotonic()),
            )
            group = ShardGroup(
                transport,
                self._topology.stages,
                self._topology.tensor_ranks,
                self.lanes,
                self._settings.failure_timeout_s * MICRO_BATCH_TIMEOUTS,
            )
            warm_up(group)
        except (TransportError, GroupLostError) as error:
            raise TransportError(f"{error}. {self._first_failure()}") from error
        return group

    def _load(self, deadline: float) -> None:
        """Have every shard load its program; rank 0 of each stage first, whom the others join."""
        homes: list[ShardHome] = self._heard(
            [(member, member.actor.home.remote()) for member in self._members], deadline
        )
        nodes: dict[int, set[str]] = {}
        for member, home in zip(self._members, homes, strict=True):
            nodes.setdefault(member.stage, set()).add(home.node_id)
            logger.info(
                "%s: node %s (%s), process %d", member.name, home.node_id[:8], home.ip, home.pid
            )
        first = [member for member in self._members if member.tp_rank == 0]
        others = [member for member in self._members if member.tp_rank != 0]
        groups = self._heard(
            [(m, m.actor.load.remote(len(nodes[m.stage]) == 1, None)) for m in first], deadline
        )
        self._heard(
            [
                (m, m.actor.load.remote(groups[m.stage] is not None, groups[m.stage]))
                for m in others
            ],
            deadline,
        )

    def _heard(self, asked: Sequence[tuple[_Member, Any]], deadline: float) -> list[Any]:
        """What the shards answer; TransportError, naming it, for one that does not."""
        if not asked:
            return []
        refs = [ref for _, ref in asked]
        _, late = ray.wait(
            refs, num_returns=len(refs), timeout=max(0.0, deadline - time.monotonic())
        )
        if late:
            names = [member.name for member, ref in asked if ref in late]
            raise TransportError(
                f"{', '.join(names)} did not load within {self._settings.start_timeout_s:g} s; "
                "raise parallel.start_timeout_s, or see whether their nodes are overloaded"
            )
        for member, ref in asked:
            try:
                ray.get(ref)
            except RayError as error:
                raise TransportError(f"{member.name}: {_first_line(error)}") from error
        return list(ray.get(refs))

    def _first_failure(self) -> str:
        done, _ = ray.wait(list(self._serving), timeout=1)
        return _why(self._serving[done[0]], done[0]) if done else "No shard says why"

    # ------------------------------------------------------------------ watching

    def _watch(self) -> None:
        asked: dict[Any, _Member] = {}
        looked = time.monotonic()
        heard = {member.name: looked for member in self._members}
        last: dict[str, ShardFigures] = {m.name: ShardFigures() for m in self._members}
        next_question = 0.0
        silent = self._settings.failure_timeout_s
        period = min(SIGN_OF_LIFE_S, silent / 4)
        while not self._ended.is_set():
            if time.monotonic() >= next_question:
                next_question = time.monotonic() + period
                waiting = {member.name for member in asked.values()}
                free = [member for member in self._members if member.name not in waiting]
                asked |= {member.actor.figures.remote(): member for member in free}
            soonest = min(next_question, min(heard.values()) + silent)
            refs = [*self._serving, *asked]
            ray.wait(refs, timeout=max(0.01, soonest - time.monotonic()))
            # All that are ready, before anyone is called silent.
            done, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
            now = time.monotonic()
            if now - looked > period + silent / 2:
                # This process itself stood still, and has yet to hear what was said meanwhile.
                heard = dict.fromkeys(heard, now)
            looked = now
            for ref in done:
                if ref in self._serving:
                    return self._give_up(_why(self._serving[ref], ref))
                member = asked.pop(ref)
                try:
                    last[member.name] = ray.get(ref)
                except RayError as error:
                    return self._give_up(f"{member.name}: {_first_line(error)}")
                heard[member.name] = now
            for name, at in heard.items():
                if now - at >= silent:
                    return self._give_up(f"{name} gave no sign of life for {silent:g} s")
            if self._group.broken is not None:
                return self._give_up(self._group.broken)
            if done:
                self._report([last[member.name] for member in self._members])
        return None

    def _give_up(self, reason: str) -> None:
        if self._ended.is_set():
            return
        logger.error("a shard is lost: %s", reason)
        self._group.fail(reason)
        self._end_shards()
        self._lost(reason)

    def _end_shards(self) -> None:
        self._ended.set()
        for member in self._members:
            ray.kill(member.actor)


def _why(member: _Member, serving: Any) -> str:
    try:
        ray.get(serving, timeout=0)
    except (RayError, GetTimeoutError) as error:
        return f"{member.name}: {_first_line(error)}"
    return f"{member.name} stopped"


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__

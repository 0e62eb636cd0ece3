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
from cluster.errors import PlanError, TransportError
from cluster.parallel.plan import bundles
from cluster.runtime.gloo import GlooTransport, Rendezvous
from cluster.runtime.shard import ShardFigures
from cluster.runtime.shard_group import ShardGroup
from cluster.runtime.topology import REPLICA, Topology
from deployments.shard_actor import ShardActor, ShardHome, ShardSpec, node_ip

logger = logging.getLogger("ray.serve")

SIGN_OF_LIFE_S = 1.0
"""Seconds between two questions to every shard for its figures."""

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
            self._group = self._connected()
            for size in {1, args.batching.max_batch_size, *(args.batching.buckets or ())}:
                self._group.run([spec.zeros(size) for spec in layout.crossing[0]])
        except BaseException:
            self._end_shards()
            raise
        self._watcher = threading.Thread(target=self._watch, name="shards", daemon=True)
        self._watcher.start()

    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """See :meth:`cluster.runtime.shard_group.ShardGroup.run`."""
        return self._group.run(arrays)

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
                batches=(),
                start_timeout_s=self._settings.start_timeout_s,
            )
            actor = (
                ray.remote(ShardActor)
                .options(
                    name=f"{replica}#stage-{shard.stage}.rank-{shard.tp_rank}",
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

    def _connected(self) -> ShardGroup:
        deadline = time.monotonic() + self._settings.start_timeout_s
        homes = self._loaded(deadline)
        ip = node_ip()
        meeting = Rendezvous(ip)
        try:
            self._serving = {m.actor.serve.remote(meeting.address): m for m in self._members}
            transport = GlooTransport(
                meeting.address,
                REPLICA,
                self._topology.size,
                ip,
                max(1.0, deadline - time.monotonic()),
            )
        except TransportError as error:
            raise TransportError(f"{error}. {self._first_failure()}") from error
        finally:
            meeting.close()
        for member, home in zip(self._members, homes, strict=True):
            logger.info(
                "%s: node %s (%s), process %d", member.name, home.node_id[:8], home.ip, home.pid
            )
        return ShardGroup(
            transport,
            self._topology.stages,
            self._topology.tensor_ranks,
            self.lanes,
            self._settings.failure_timeout_s * MICRO_BATCH_TIMEOUTS,
        )

    def _loaded(self, deadline: float) -> list[ShardHome]:
        loading = [member.actor.load.remote() for member in self._members]
        ready, late = ray.wait(
            loading, num_returns=len(loading), timeout=max(0.0, deadline - time.monotonic())
        )
        if late:
            names = [m.name for m, ref in zip(self._members, loading, strict=True) if ref in late]
            raise TransportError(
                f"{', '.join(names)} did not load within {self._settings.start_timeout_s:g} s; "
                "raise parallel.start_timeout_s, or see whether their nodes are overloaded"
            )
        return list(ray.get(ready and loading))

    def _first_failure(self) -> str:
        done, _ = ray.wait(list(self._serving), timeout=0)
        return _why(self._serving[done[0]], done[0]) if done else "No shard says why"

    # ------------------------------------------------------------------ watching

    def _watch(self) -> None:
        asked: dict[Any, _Member] = {}
        heard = {member.name: time.monotonic() for member in self._members}
        last: dict[str, ShardFigures] = {m.name: ShardFigures() for m in self._members}
        next_question = 0.0
        while not self._ended.is_set():
            if time.monotonic() >= next_question:
                next_question = time.monotonic() + SIGN_OF_LIFE_S
                waiting = {member.name for member in asked.values()}
                free = [member for member in self._members if member.name not in waiting]
                asked |= {member.actor.figures.remote(): member for member in free}
            done, _ = ray.wait(
                [*self._serving, *asked], timeout=max(0.01, next_question - time.monotonic())
            )
            for ref in done:
                if ref in self._serving:
                    return self._give_up(_why(self._serving[ref], ref))
                member = asked.pop(ref)
                try:
                    last[member.name] = ray.get(ref)
                except RayError as error:
                    return self._give_up(f"{member.name}: {_first_line(error)}")
                heard[member.name] = time.monotonic()
            silent = self._settings.failure_timeout_s
            for name, at in heard.items():
                if time.monotonic() - at > silent:
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

"""A model over several devices as one program, which a replica's batcher runs.

start   placement group of the replica, bundle 0 its own
        → one ShardActor per further bundle → loaded → connected
run     ShardGroup: arrays → stage 0 ⇒ stage 1 ⇒ … → arrays
watch   a shard's serve() ends, or it gives no sign of life → the group fails, the replica ends
move    new actors loaded elsewhere → micro-batches wait → all connected anew → they go on
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import ray
from ray.util import get_current_placement_group
from ray.util.placement_group import PlacementGroup

from cluster.artifact.layout import Layout
from cluster.artifact.served import BoundModel
from cluster.errors import GroupLostError, PlanError
from cluster.runtime.gloo import Address, Rendezvous
from cluster.runtime.shared_lock import SharedLock
from deployments.shards.actor import node_ip
from deployments.shards.members import Member, Replica, end, load, place
from deployments.shards.moves import Moves
from deployments.shards.pipeline import Pipeline, connect
from deployments.shards.watch import Report, Watch

logger = logging.getLogger("ray.serve")

HAND_OVER_S = 15.0
"""How long each of these may take when shards move: the last answers, the end of the old
connections, and the new ones. All take tenths of a second; micro-batches wait meanwhile."""


class ShardedProgram:
    """The shards of one replica; ``run`` is what a Batcher runs, on ``lanes`` threads."""

    def __init__(
        self, replica: Replica, pipeline: Pipeline, report: Report, lost: Callable[[str], None]
    ) -> None:
        """``pipeline``: the connected shards. See :meth:`start` for the others."""
        self._replica = replica
        self._pipeline = pipeline
        self._report, self._lost = report, lost
        self.layout = replica.layout
        self.lanes = _lanes_of(replica)
        self._running = SharedLock()
        self._changing = threading.Lock()
        self._moving = False
        self._ended = threading.Event()
        self._ending = threading.Lock()
        self._reason: str | None = None
        self._watch = self._watched()

    @classmethod
    def start(
        cls, model: BoundModel, layout: Layout, report: Report, lost: Callable[[str], None]
    ) -> ShardedProgram:
        """Start all shards; PlanError or TransportError, naming the shard, if one does not come.

        ``report`` gets the figures of all shards, by stage and rank, every second. ``lost`` is
        called once, with the reason, after the group has failed.
        """
        args = model.args
        name = ray.get_runtime_context().get_actor_name() or args.name
        replica = Replica(name, model, layout)
        group = _own_group(replica)
        started = time.monotonic()
        members = place(replica, group, replica.bundle_of)
        sizes = {1, args.batching.max_batch_size, *(args.batching.buckets or ())}
        try:
            with _meeting() as address:  # while the shards' processes start
                members = load(replica, members)
                left_s = replica.settings.start_timeout_s - (time.monotonic() - started)
                pipeline = connect(
                    replica,
                    members,
                    address,
                    lanes=_lanes_of(replica),
                    timeout_s=max(1.0, left_s),
                    sizes=sorted(sizes),  # the first run of a size sets up its kernels
                    before={},
                )
        except BaseException:
            end(members)
            raise
        program = cls(replica, pipeline, report, lost)
        Moves(replica, group, lambda: program._pipeline.members, program._hand_over, program._ended)
        return program

    def run(self, arrays: Sequence[np.ndarray]) -> tuple[list[np.ndarray], tuple[float, ...]]:
        """See :meth:`cluster.runtime.shard_group.ShardGroup.run_timed`; waits while shards are
        connected anew."""
        with self._running.shared():
            return self._pipeline.group.run_timed(arrays)

    @property
    def moving(self) -> bool:
        """Whether micro-batches wait for shards that are connected anew."""
        return self._moving

    @property
    def broken(self) -> str | None:
        """Why nothing is answered any more, or None while it is, and while shards move."""
        if self._reason is not None or self._moving:
            return self._reason
        return self._pipeline.group.broken

    def close(self) -> None:
        """Stop the shards and end their processes."""
        self._end()
        with self._changing:
            self._watch.stop()
            self._pipeline.group.close()
            end(self._pipeline.members)

    def _watched(self) -> Watch:
        silent_s = self._replica.settings.failure_timeout_s
        return Watch(self._pipeline, silent_s, self._report, self._give_up)

    def _hand_over(self, leaving: Sequence[Member], come: Callable[[], Sequence[Member]]) -> None:
        """See :data:`deployments.shards.moves.HandOver`. Shards that stay are not loaded again."""
        try:
            with self._changing, _meeting() as address, self._running.exclusive():
                if self._ended.is_set():
                    raise GroupLostError("the replica ends")
                started = time.monotonic()
                self._moving = True
                self._watch.stop()
                before = self._pipeline.close(HAND_OVER_S)
                staying = [each for each in self._pipeline.members if each not in leaving]
                members = sorted([*staying, *come()], key=lambda member: member.shard)
                self._pipeline = connect(
                    self._replica,
                    members,
                    address,
                    lanes=self.lanes,
                    timeout_s=HAND_OVER_S,
                    sizes=[1],  # of the others, the kernels are set up when one comes
                    before=before,
                )
                self._watch = self._watched()
                self._moving = False
        except Exception as error:  # what is left is no pipeline, whatever it was
            if self._moving:
                self._give_up(f"the shards were not connected anew: {error}")
            raise
        where = ", ".join(f"{m.name} on node {m.node_id[:8]}" for m in members if m not in staying)
        logger.info("%s; micro-batches waited for %.2f s", where, time.monotonic() - started)

    def _give_up(self, reason: str) -> None:
        if not self._end():
            return
        logger.error("a shard is lost: %s", reason)
        self._reason = reason
        self._pipeline.group.fail(reason)
        end(self._pipeline.members)
        self._lost(reason)

    def _end(self) -> bool:
        """Whether it had not ended before."""
        with self._ending:
            if self._ended.is_set():
                return False
            self._ended.set()
            return True


def _own_group(replica: Replica) -> PlacementGroup:
    group = get_current_placement_group()
    wanted = len(replica.bundles)
    if group is None or group.bundle_count != wanted:
        has = "none" if group is None else f"one of {group.bundle_count}"
        raise PlanError(
            f"model {replica.model.name}: {replica.layout.key} needs a placement group of {wanted} "
            f"bundles, the replica has {has}; deploy it by deployments.app:model"
        )
    return group


def _lanes_of(replica: Replica) -> int:
    """Return how many micro-batches are in flight at once, unless configured one per stage and one
    more."""
    return replica.settings.max_inflight or replica.layout.pipeline + 1


@contextlib.contextmanager
def _meeting() -> Iterator[Address]:
    """Where shards may come to be connected, inside the block."""
    meeting = Rendezvous(node_ip())
    try:
        yield meeting.address
    finally:
        meeting.close()  # nobody meets any more

"""Model over several devices as one program, which a replica's batcher runs.

start   the replica's placement group, whose bundle 0 holds the replica
        → one ShardActor per further bundle → loaded → connected
run     ShardGroup: arrays → stage 0 ⇒ stage 1 ⇒ … → arrays
watch   a shard's serve() ends, or its heartbeat stops → the group fails, the replica ends
move    new actors load elsewhere → micro-batches wait → all connect again → they continue
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
from deployments.shards.members import Member, ShardedReplica, end, load, place
from deployments.shards.moves import Moves
from deployments.shards.pipeline import Pipeline, connect
from deployments.shards.watch import Report, Watch

logger = logging.getLogger("ray.serve")

HAND_OVER_S = 15.0
"""Timeout of each phase of a hand-over, in seconds, while micro-batches wait.

The phases are the last answers, closing the old connections, and opening the new ones. Each takes
tenths of a second."""


class ShardedProgram:
    """Shards of one replica as a program; a Batcher calls ``run`` on ``lanes`` threads."""

    def __init__(
        self,
        replica: ShardedReplica,
        pipeline: Pipeline,
        report: Report,
        lost: Callable[[str], None],
    ) -> None:
        """``pipeline``: the connected shards. See :meth:`start` for the other arguments."""
        self._replica = replica
        self._pipeline = pipeline
        self._report, self._lost = report, lost
        self.layout = replica.layout
        self.lanes = _lanes_of(replica)
        self._run_lock = SharedLock()
        self._pipeline_lock = threading.Lock()
        self._moving = False
        self._ended = threading.Event()
        self._end_lock = threading.Lock()
        self._reason: str | None = None
        self._watch = self._start_watch()

    @classmethod
    def start(
        cls, model: BoundModel, layout: Layout, report: Report, lost: Callable[[str], None]
    ) -> ShardedProgram:
        """Start all shards.

        ``report`` gets the counters of all shards, by stage and rank, every second. ``lost`` is
        called once, with the reason, after the group has failed. Raises PlanError, or
        TransportError with the name of a shard that does not start.
        """
        args = model.args
        name = ray.get_runtime_context().get_actor_name() or args.name
        replica = ShardedReplica(name, model, layout)
        group = _replica_group(replica)
        started = time.monotonic()
        members = place(replica, group, replica.bundle_of)
        sizes = {1, args.batching.max_batch_size, *(args.batching.buckets or ())}
        try:
            with _rendezvous() as address:  # while the shards' processes start
                members = load(replica, members)
                elapsed_s = time.monotonic() - started
                remaining_s = replica.settings.start_timeout_s - elapsed_s
                pipeline = connect(
                    replica,
                    members,
                    address,
                    lanes=_lanes_of(replica),
                    timeout_s=max(1.0, remaining_s),
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
        """Run a batch, as :meth:`cluster.runtime.shard_group.ShardGroup.run_timed` does.

        Waits while shards move.
        """
        with self._run_lock.shared():
            return self._pipeline.group.run_timed(arrays)

    @property
    def moving(self) -> bool:
        """Whether micro-batches wait for shards that move."""
        return self._moving

    @property
    def broken(self) -> str | None:
        """Reason that the group has failed; None while it serves, and while shards move."""
        if self._reason is not None or self._moving:
            return self._reason
        return self._pipeline.group.broken

    def close(self) -> None:
        """Stop the shards and end their processes."""
        self._set_ended()
        with self._pipeline_lock:
            self._watch.stop()
            self._pipeline.group.close()
            end(self._pipeline.members)

    def _start_watch(self) -> Watch:
        timeout_s = self._replica.settings.failure_timeout_s
        return Watch(self._pipeline, timeout_s, self._report, self._fail)

    def _hand_over(self, leaving: Sequence[Member], start: Callable[[], Sequence[Member]]) -> None:
        """See :data:`deployments.shards.moves.HandOver`. Shards that stay are not loaded again."""
        try:
            with self._pipeline_lock, _rendezvous() as address, self._run_lock.exclusive():
                if self._ended.is_set():
                    raise GroupLostError("the replica ends")
                started = time.monotonic()
                self._moving = True
                self._watch.stop()
                before = self._pipeline.close(HAND_OVER_S)
                staying = [member for member in self._pipeline.members if member not in leaving]
                members = sorted([*staying, *start()], key=lambda member: member.shard)
                self._pipeline = connect(
                    self._replica,
                    members,
                    address,
                    lanes=self.lanes,
                    timeout_s=HAND_OVER_S,
                    sizes=[1],  # kernels of other sizes are set up by their first batch
                    before=before,
                )
                self._watch = self._start_watch()
                self._moving = False
        except Exception as error:  # whatever the error, there is no pipeline
            if self._moving:
                self._fail(f"the shards could not be connected again: {error}")
            raise
        where = ", ".join(f"{m.name} on node {m.node_id[:8]}" for m in members if m not in staying)
        logger.info("%s; micro-batches waited for %.2f s", where, time.monotonic() - started)

    def _fail(self, reason: str) -> None:
        if not self._set_ended():
            return
        logger.error("a shard is unavailable: %s", reason)
        self._reason = reason
        self._pipeline.group.fail(reason)
        end(self._pipeline.members)
        self._lost(reason)

    def _set_ended(self) -> bool:
        """Mark the program as ended; return whether it was not before."""
        with self._end_lock:
            if self._ended.is_set():
                return False
            self._ended.set()
            return True


def _replica_group(replica: ShardedReplica) -> PlacementGroup:
    group = get_current_placement_group()
    expected = len(replica.bundles)
    if group is None or group.bundle_count != expected:
        actual = "none" if group is None else f"one of {group.bundle_count}"
        raise PlanError(
            f"model {replica.model.name}: {replica.layout.key} needs a placement group of "
            f"{expected} bundles, the replica has {actual}; deploy it by deployments.app:model"
        )
    return group


def _lanes_of(replica: ShardedReplica) -> int:
    """Return the limit of micro-batches in flight; by default one more than stages."""
    return replica.settings.max_inflight or replica.layout.pipeline + 1


@contextlib.contextmanager
def _rendezvous() -> Iterator[Address]:
    """Open a rendezvous for the shards' connections; yield its address."""
    rendezvous = Rendezvous(node_ip())
    try:
        yield rendezvous.address
    finally:
        rendezvous.close()

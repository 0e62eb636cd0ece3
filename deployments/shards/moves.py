"""Moves of shards away from a draining node, and back when the replica's placement group has room.

    node drains  → a temporary placement group elsewhere           → load there → hand over
    node stopped → Ray places the replica's lost bundles elsewhere → load there → hand over
                   → remove the temporary placement group

Without the second move, the bundles of a moved shard would be reserved twice: in the temporary
group, and in the replica's group, for which Ray keeps looking for room. Ray places no other group
before it. If the only room is what the moved shards occupy, they release it first, and
micro-batches wait until they are loaded again. A replica whose own process is on a draining node
does not move its shards, because Serve starts another replica.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Collection, Sequence

from ray.exceptions import RayError
from ray.util import placement_group, remove_placement_group
from ray.util.placement_group import PlacementGroup

from cluster.errors import HeadraceError, PlanError
from deployments.ray import nodes
from deployments.ray.names import moved_shards
from deployments.shards.members import Member, ShardedReplica, end, load, place
from deployments.shards.placement import NOT_THE_HEAD

logger = logging.getLogger("ray.serve")

CHECK_INTERVAL_S = 2.0
"""Interval between two queries of the head for draining nodes, in seconds."""

PENDING_LIMIT_S = 5.0
"""Time that the replica's placement group may be pending before moved shards release their room."""

_POLL_S = 0.1

HandOver = Callable[[Sequence[Member], Callable[[], Sequence[Member]]], None]
"""(leaving, start): replaces the members that leave by those that ``start`` returns.

``start`` is called while no shard serves and micro-batches wait. If it raises, or if the members
cannot be connected, the replica ends, and the error is raised again.
"""


class Moves:
    """Thread that moves the shards of one replica, until ``ended`` is set.

    ``group`` is the replica's placement group; ``members`` returns the shards that serve now.
    """

    def __init__(
        self,
        replica: ShardedReplica,
        group: PlacementGroup,
        members: Callable[[], Sequence[Member]],
        hand_over: HandOver,
        ended: threading.Event,
    ) -> None:
        self._replica = replica
        self._group = group
        self._members = members
        self._hand_over = hand_over
        self._ended = ended
        self._node = nodes.this_node()
        self._numbers = itertools.count(1)
        self._temporary: list[PlacementGroup] = []
        self._pending_since: float | None = None
        threading.Thread(target=self._watch, name="moves", daemon=True).start()

    def _watch(self) -> None:
        while not self._ended.wait(CHECK_INTERVAL_S):
            try:
                self._step()
            except Exception as error:  # the next step may succeed
                if not self._ended.is_set():
                    known = isinstance(error, (RayError, HeadraceError))
                    logger.warning("shards are not moved yet: %s", error, exc_info=not known)

    def _step(self) -> None:
        """Make one move, if one is due."""
        self._remove_unused_groups()
        draining = nodes.draining()
        if self._node in draining:
            return
        leaving = [member for member in self._members() if member.node_id in draining]
        away = [member for member in self._members() if member.group.id != self._group.id]
        if leaving:
            if self._may_return(leaving):
                self._move_back(leaving)
            else:
                self._move_away(leaving)
        elif away and self._may_return(away):
            self._pending_since = None
            self._move_back(away)
        elif away and self._pending_too_long(away, draining):
            self._pending_since = None
            self._make_room(away)
        self._remove_unused_groups()

    def _may_return(self, members: Sequence[Member]) -> bool:
        """Whether all are away, and their bundles of the replica's group are on staying nodes."""
        if any(member.group.id == self._group.id for member in members):
            return False
        staying = nodes.staying()
        return all(node in staying for node in self._homes(members))

    def _homes(self, members: Sequence[Member]) -> list[str]:
        """Return the nodes of the members' bundles in the replica's group."""
        nodes_of, bundle_of = nodes.bundle_nodes(self._group), self._replica.bundle_of
        return [nodes_of[bundle_of[member.shard]] for member in members]

    def _pending_too_long(self, away: Sequence[Member], draining: Collection[str]) -> bool:
        """Whether the replica's group has been pending for :data:`PENDING_LIMIT_S`.

        Not while one of the members' bundles is on a draining node: it is placed after that stops.
        """
        now = time.monotonic()
        placed = nodes.is_placed(self._group)
        if placed or any(node in draining for node in self._homes(away)):
            self._pending_since = None
        elif self._pending_since is None:
            self._pending_since = now
        return self._pending_since is not None and now - self._pending_since >= PENDING_LIMIT_S

    def _move_away(self, leaving: Sequence[Member]) -> None:
        number, bundle_of = next(self._numbers), self._replica.bundle_of
        bundles = [self._replica.bundles[bundle_of[member.shard]] for member in leaving]
        group = placement_group(
            bundles,
            nodes.strategy(self._group),
            name=moved_shards(self._replica.name, number),
            bundle_label_selector=[NOT_THE_HEAD] * len(bundles),
        )
        self._temporary.append(group)
        logger.info("%s: the node drains; looking for room elsewhere", _names(leaving))
        while not group.wait(CHECK_INTERVAL_S):
            draining = nodes.draining()
            affected = [member for member in self._members() if member.node_id in draining]
            if self._ended.is_set() or self._node in draining or affected != leaving:
                return
            if self._may_return(leaving):
                return
        self._move(leaving, group, number)

    def _move_back(self, leaving: Sequence[Member]) -> None:
        self._move(leaving, self._group, next(self._numbers))

    def _move(self, leaving: Sequence[Member], group: PlacementGroup, number: int) -> None:
        joining = self._start(leaving, group, number)
        try:
            self._hand_over(leaving, lambda: joining)
        except BaseException:
            end(joining)
            raise
        end(leaving)

    def _make_room(self, away: Sequence[Member]) -> None:
        """Release the members' bundles, and start them again where Ray places them then.

        If another group takes that room first, the replica waits for other room, and ends after
        ``start_timeout_s``.
        """

        def start() -> list[Member]:
            end(away)
            for group in {member.group.id: member.group for member in away}.values():
                remove_placement_group(group)
            deadline = time.monotonic() + self._replica.settings.start_timeout_s
            while not all(node in nodes.staying() for node in self._homes(away)):
                if self._ended.is_set() or time.monotonic() > deadline:
                    raise PlanError(
                        f"{_names(away)}: no room for their bundles within "
                        f"{self._replica.settings.start_timeout_s:g} s; add nodes, or increase "
                        "parallel.start_timeout_s"
                    )
                time.sleep(_POLL_S)
            return self._start(away, self._group, next(self._numbers))

        logger.info("%s: no other room; they release theirs and load again", _names(away))
        self._hand_over(away, start)

    def _start(self, members: Sequence[Member], group: PlacementGroup, number: int) -> list[Member]:
        """Start and load the members' shards in the replica's group, or in a temporary one."""
        is_replicas = group.id == self._group.id
        bundle_of = self._replica.bundle_of
        bundles = {
            member.shard: bundle_of[member.shard] if is_replicas else index
            for index, member in enumerate(members)
        }
        placed = place(self._replica, group, bundles, number)
        try:
            return load(self._replica, placed)
        except BaseException:
            end(placed)
            raise

    def _remove_unused_groups(self) -> None:
        """Remove the temporary placement groups without a serving shard."""
        used = {member.group.id for member in self._members()}
        for group in [group for group in self._temporary if group.id not in used]:
            remove_placement_group(group)
            self._temporary.remove(group)


def _names(members: Sequence[Member]) -> str:
    return ", ".join(member.name for member in members)

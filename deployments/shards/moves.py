"""Shards move away from a node that drains, before it stops, and back when there is room again.

    their node drains    → a placement group of their own, elsewhere → loaded there → handed over
    the node has stopped → Ray places the bundles that it had anew   → loaded there → handed over,
                           and the placement group of their own is given back

The second move gives the replica's own placement group what it is there for. As long as it has no
room for that, a moved shard's share of the cluster is wanted twice, and Ray places no other
placement group before it. So, if there is none but what the shards hold themselves, they give it
back first, and micro-batches wait until they are loaded again. A replica whose own process is on a
node that drains stays as it is, because Serve starts another one.
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
from deployments.shards.members import Member, Replica, end, load, place
from deployments.shards.placement import NOT_THE_HEAD

logger = logging.getLogger("ray.serve")

LOOK_S = 2.0
"""Seconds between two questions to the head for nodes that drain."""

IN_VAIN_S = 5.0
"""So long the replica's own placement group may look for room, before moved shards make it."""

_POLL_S = 0.1

HandOver = Callable[[Sequence[Member], Callable[[], Sequence[Member]]], None]
"""(leaving, come): those that ``come`` returns serve in the place of those that leave.

It is called when no shard serves any more and micro-batches wait. The replica is given up if it
raises, and if the members cannot be connected; what was raised is raised again.
"""


class Moves:
    """Looks after the members of one replica, in a thread of its own, until ``ended`` is set.

    ``group`` is the replica's own placement group; ``members`` tells who serves now.
    """

    def __init__(
        self,
        replica: Replica,
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
        self._here = nodes.this_node()
        self._numbers = itertools.count(1)
        self._elsewhere: list[PlacementGroup] = []
        self._unplaced_since: float | None = None
        threading.Thread(target=self._look, name="moves", daemon=True).start()

    def _look(self) -> None:
        while not self._ended.wait(LOOK_S):
            try:
                self._step()
            except Exception as error:  # whatever it is, the next look may find it over
                if not self._ended.is_set():
                    known = isinstance(error, (RayError, HeadraceError))
                    logger.warning("shards are not moved yet: %s", error, exc_info=not known)

    def _step(self) -> None:
        """Begin and end a move, if there is one to make."""
        self._give_back()
        draining = nodes.draining()
        if self._here in draining:
            return
        leaving = [member for member in self._members() if member.node_id in draining]
        away = [member for member in self._members() if member.group.id != self._group.id]
        if leaving:
            if self._may_return(leaving):
                self._move_back(leaving)
            else:
                self._move_away(leaving)
        elif away and self._may_return(away):
            self._unplaced_since = None
            self._move_back(away)
        elif away and self._waits_in_vain(away, draining):
            self._unplaced_since = None
            self._make_room(away)
        self._give_back()

    def _may_return(self, members: Sequence[Member]) -> bool:
        """Whether all are away, and what is theirs of the replica's own group is on nodes that
        stay."""
        if any(member.group.id == self._group.id for member in members):
            return False
        staying = nodes.staying()
        return all(node in staying for node in self._homes(members))

    def _homes(self, members: Sequence[Member]) -> list[str]:
        """The nodes of the bundles of the replica's own group that are theirs."""
        nodes_of, bundle_of = nodes.bundle_nodes(self._group), self._replica.bundle_of
        return [nodes_of[bundle_of[member.shard]] for member in members]

    def _waits_in_vain(self, away: Sequence[Member], draining: Collection[str]) -> bool:
        """Whether the replica's own group has looked for room for :data:`IN_VAIN_S`, and no bundle
        that was theirs is on a node that has yet to stop."""
        now = time.monotonic()
        placed = nodes.is_placed(self._group)
        if placed or any(node in draining for node in self._homes(away)):
            self._unplaced_since = None
        elif self._unplaced_since is None:
            self._unplaced_since = now
        return self._unplaced_since is not None and now - self._unplaced_since >= IN_VAIN_S

    def _move_away(self, leaving: Sequence[Member]) -> None:
        number, bundle_of = next(self._numbers), self._replica.bundle_of
        bundles = [self._replica.bundles[bundle_of[member.shard]] for member in leaving]
        group = placement_group(
            bundles,
            nodes.strategy(self._group),
            name=moved_shards(self._replica.name, number),
            bundle_label_selector=[NOT_THE_HEAD] * len(bundles),
        )
        self._elsewhere.append(group)
        logger.info("%s: the node drains; looking for room elsewhere", _told(leaving))
        while not group.wait(LOOK_S):
            draining = nodes.draining()
            still = [member for member in self._members() if member.node_id in draining]
            if self._ended.is_set() or self._here in draining or still != leaving:
                return
            if self._may_return(leaving):
                return
        self._move(leaving, group, number)

    def _move_back(self, leaving: Sequence[Member]) -> None:
        self._move(leaving, self._group, next(self._numbers))

    def _move(self, leaving: Sequence[Member], group: PlacementGroup, number: int) -> None:
        coming = self._loaded(leaving, group, number)
        try:
            self._hand_over(leaving, lambda: coming)
        except BaseException:
            end(coming)
            raise
        end(leaving)

    def _make_room(self, away: Sequence[Member]) -> None:
        """Give back what the members hold, and load them where Ray has placed them then.

        If something else takes that room first, the replica waits for other room, and is given up
        after ``start_timeout_s``.
        """

        def come() -> list[Member]:
            end(away)
            for group in {member.group.id: member.group for member in away}.values():
                remove_placement_group(group)
            deadline = time.monotonic() + self._replica.settings.start_timeout_s
            while not all(node in nodes.staying() for node in self._homes(away)):
                if self._ended.is_set() or time.monotonic() > deadline:
                    raise PlanError(f"{_told(away)}: no room, not even where they were")
                time.sleep(_POLL_S)
            return self._loaded(away, self._group, next(self._numbers))

        logger.info("%s: no room but their own; they are loaded again there", _told(away))
        self._hand_over(away, come)

    def _loaded(
        self, members: Sequence[Member], group: PlacementGroup, number: int
    ) -> list[Member]:
        """The same shards once more, in a group that is the replica's own or theirs alone."""
        own = group.id == self._group.id
        bundle_of = self._replica.bundle_of
        bundles = {
            member.shard: bundle_of[member.shard] if own else index
            for index, member in enumerate(members)
        }
        placed = place(self._replica, group, bundles, number)
        try:
            return load(self._replica, placed)
        except BaseException:
            end(placed)
            raise

    def _give_back(self) -> None:
        """Remove the placement groups made for moves in which nobody serves any more."""
        used = {member.group.id for member in self._members()}
        for group in [each for each in self._elsewhere if each.id not in used]:
            remove_placement_group(group)
            self._elsewhere.remove(group)


def _told(members: Sequence[Member]) -> str:
    return ", ".join(member.name for member in members)

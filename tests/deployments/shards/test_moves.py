"""Which move is made, by what the head says of nodes and placement groups."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

from cluster.errors import PlanError
from deployments.ray import nodes
from deployments.shards import moves as moves_module
from deployments.shards.members import Member
from deployments.shards.moves import Moves

HERE, THERE, ELSEWHERE = "0a", "0b", "0c"
OWN, OTHER = SimpleNamespace(id=b"own"), SimpleNamespace(id=b"other")
REPLICA = SimpleNamespace(bundle_of={(0, 0): 1, (1, 0): 2})


@pytest.fixture
def says(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The head: what drains, what stays, and where the replica's own bundles are."""
    said = SimpleNamespace(
        drains=set(), stays={HERE, THERE, ELSEWHERE}, bundles={1: HERE, 2: THERE}, placed=True
    )
    monkeypatch.setattr(nodes, "this_node", lambda: HERE)
    monkeypatch.setattr(nodes, "draining", lambda: frozenset(said.drains))
    monkeypatch.setattr(nodes, "staying", lambda: frozenset(said.stays - said.drains))
    monkeypatch.setattr(nodes, "bundle_nodes", lambda group: said.bundles)
    monkeypatch.setattr(nodes, "is_placed", lambda group: said.placed)
    return said


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Time passes when a test says so."""
    clock = SimpleNamespace(monotonic=lambda: clock.now, now=100.0)
    monkeypatch.setattr(moves_module, "time", clock)
    return clock


class Moved(Moves):
    """Says what it would do."""

    def __init__(self, *members: Member) -> None:
        ended = threading.Event()
        ended.set()  # its thread has nothing to do
        super().__init__(REPLICA, OWN, lambda: members, lambda leaving, come: None, ended)
        self.made: list[tuple[str, list[Member]]] = []

    def _move_away(self, leaving):
        self.made.append(("away", leaving))

    def _move_back(self, leaving):
        self.made.append(("back", leaving))

    def _make_room(self, away):
        self.made.append(("make room", away))

    def step(self) -> list[tuple[str, list[Member]]]:
        self.made.clear()
        self._step()
        return list(self.made)


def member(stage: int, node: str, group: SimpleNamespace = OWN) -> Member:
    return Member((stage, 0), None, group, node)


def test_shards_on_a_node_that_drains_leave(says: SimpleNamespace) -> None:
    stays, leaves = member(0, HERE), member(1, THERE)
    moves = Moved(stays, leaves)
    assert moves.step() == []
    says.drains = {THERE}
    assert moves.step() == [("away", [leaves])]


def test_a_replica_on_a_node_that_drains_is_left_to_serve(says: SimpleNamespace) -> None:
    says.drains = {HERE, THERE}
    assert Moved(member(0, HERE), member(1, THERE)).step() == []
    says.drains = {HERE}  # and those that are away stay there
    says.bundles = {1: HERE, 2: THERE}
    assert Moved(member(0, HERE), member(1, ELSEWHERE, OTHER)).step() == []


def test_shards_return_when_all_their_bundles_are_on_nodes_that_stay(
    says: SimpleNamespace,
) -> None:
    away = [member(0, ELSEWHERE, OTHER), member(1, ELSEWHERE, OTHER)]
    moves = Moved(*away)
    says.drains = {THERE}  # where the second one was
    assert moves.step() == []
    says.drains, says.stays, says.placed = set(), {HERE, ELSEWHERE}, False  # it has stopped
    for unplaced in (THERE, "", "ff"):
        says.bundles = {0: HERE, 1: HERE, 2: unplaced}
        assert moves.step() == []
    says.bundles, says.placed = {0: HERE, 1: HERE, 2: ELSEWHERE}, True
    assert moves.step() == [("back", away)]


def test_shards_make_room_where_there_is_no_other_for_long(
    says: SimpleNamespace, clock: SimpleNamespace
) -> None:
    moves = Moved(away := member(1, ELSEWHERE, OTHER))
    says.stays, says.bundles, says.placed = {HERE, ELSEWHERE}, {1: HERE, 2: ""}, False
    assert moves.step() == []
    clock.now += moves_module.IN_VAIN_S - 1
    assert moves.step() == []
    says.bundles[2], says.placed = THERE, True  # on a node that has just stopped, too
    assert moves.step() == []
    says.bundles[2], says.placed = "", False
    clock.now += 2
    assert moves.step() == []  # it has looked for room anew since
    clock.now += moves_module.IN_VAIN_S
    assert moves.step() == [("make room", [away])]


def test_a_move_back_ends_the_search_for_room(
    says: SimpleNamespace, clock: SimpleNamespace
) -> None:
    moves = Moved(away := member(1, ELSEWHERE, OTHER))
    says.stays, says.bundles, says.placed = {HERE, ELSEWHERE}, {1: HERE, 2: ""}, False
    assert moves.step() == []
    says.bundles[2], says.placed = ELSEWHERE, True
    assert moves.step() == [("back", [away])]
    clock.now += 3600
    says.bundles[2], says.placed = "", False  # another node has stopped
    assert moves.step() == []


def test_no_room_is_made_while_another_node_has_yet_to_stop(
    says: SimpleNamespace, clock: SimpleNamespace
) -> None:
    """Whose bundle is no better for it: both would wait for that node."""
    away = [member(0, ELSEWHERE, OTHER), member(1, ELSEWHERE, OTHER)]
    moves = Moved(*away)
    says.drains, says.placed, says.bundles = {THERE}, False, {1: "", 2: THERE}
    for _ in range(10):
        assert moves.step() == []
        clock.now += 2
    says.drains, says.stays, says.bundles[2] = set(), {HERE, ELSEWHERE}, ""
    assert moves.step() == []
    clock.now += moves_module.IN_VAIN_S
    assert moves.step() == [("make room", away)]


def test_who_must_leave_again_goes_home_if_there_is_room(says: SimpleNamespace) -> None:
    moves = Moved(away := member(1, ELSEWHERE, OTHER))
    says.drains, says.bundles = {ELSEWHERE}, {1: HERE, 2: THERE}
    assert moves.step() == [("back", [away])]
    says.bundles[2] = ELSEWHERE
    assert moves.step() == [("away", [away])]
    # Others that are away with it, and have no room yet, are not waited for.
    homeless = member(0, THERE, OTHER)
    says.bundles = {1: "", 2: THERE}
    assert Moved(homeless, away).step() == [("back", [away])]


@pytest.mark.parametrize("room", [True, False])
def test_room_is_made_before_anything_is_loaded(
    says: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, room: bool
) -> None:
    done: list[object] = []
    away = member(1, ELSEWHERE, OTHER)
    settings = SimpleNamespace(start_timeout_s=0.3)
    monkeypatch.setattr(moves_module, "end", lambda members: done.append(("end", *members)))
    monkeypatch.setattr(
        moves_module, "remove_placement_group", lambda group: done.append(("remove", group))
    )
    monkeypatch.setattr(
        moves_module, "place", lambda replica, group, bundles, number: done.append(bundles)
    )
    monkeypatch.setattr(moves_module, "load", lambda replica, placed: ["loaded"])
    ended = threading.Event()
    ended.set()
    came: list[object] = []
    moves = Moves(
        SimpleNamespace(bundle_of=REPLICA.bundle_of, settings=settings), OWN, lambda: [away],
        lambda leaving, come: came.extend(come()), ended,
    )  # fmt: skip
    ended.clear()
    says.bundles = {1: HERE, 2: THERE if room else ""}
    if room:
        moves._make_room([away])
        assert done == [("end", away), ("remove", OTHER), {(1, 0): 2}]
        assert came == ["loaded"]
    else:
        with pytest.raises(PlanError, match="stage 1, rank 0: no room, not even where they were"):
            moves._make_room([away])
        assert done == [("end", away), ("remove", OTHER)]


def test_shards_that_are_at_home_have_nowhere_to_return(says: SimpleNamespace) -> None:
    assert Moved(member(0, HERE), member(1, THERE)).step() == []

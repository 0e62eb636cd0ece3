"""Choice of a move, by the head's state of nodes and placement groups."""

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
def head(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Return the state of a stub head: draining and staying nodes, and the replica's bundles."""
    state = SimpleNamespace(
        drains=set(), stays={HERE, THERE, ELSEWHERE}, bundles={1: HERE, 2: THERE}, placed=True
    )
    monkeypatch.setattr(nodes, "this_node", lambda: HERE)
    monkeypatch.setattr(nodes, "draining", lambda: frozenset(state.drains))
    monkeypatch.setattr(nodes, "staying", lambda: frozenset(state.stays - state.drains))
    monkeypatch.setattr(nodes, "bundle_nodes", lambda group: state.bundles)
    monkeypatch.setattr(nodes, "is_placed", lambda group: state.placed)
    return state


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Return a clock that tests advance."""
    clock = SimpleNamespace(monotonic=lambda: clock.now, now=100.0)
    monkeypatch.setattr(moves_module, "time", clock)
    return clock


class Moved(Moves):
    """Moves that are recorded instead of made."""

    def __init__(self, *members: Member) -> None:
        ended = threading.Event()
        ended.set()  # its thread has nothing to do
        super().__init__(REPLICA, OWN, lambda: members, lambda leaving, come: None, ended)
        self.moves: list[tuple[str, list[Member]]] = []

    def _move_away(self, leaving):
        self.moves.append(("away", leaving))

    def _move_back(self, leaving):
        self.moves.append(("back", leaving))

    def _make_room(self, away):
        self.moves.append(("make room", away))

    def step(self) -> list[tuple[str, list[Member]]]:
        self.moves.clear()
        self._step()
        return list(self.moves)


def member(stage: int, node: str, group: SimpleNamespace = OWN) -> Member:
    return Member((stage, 0), None, group, node)


def test_shards_leave_draining_node(head: SimpleNamespace) -> None:
    stays, leaves = member(0, HERE), member(1, THERE)
    moves = Moved(stays, leaves)
    assert moves.step() == []
    head.drains = {THERE}
    assert moves.step() == [("away", [leaves])]


def test_replica_on_draining_node_moves_no_shards(head: SimpleNamespace) -> None:
    head.drains = {HERE, THERE}
    assert Moved(member(0, HERE), member(1, THERE)).step() == []
    head.drains = {HERE}  # and those that are away stay there
    head.bundles = {1: HERE, 2: THERE}
    assert Moved(member(0, HERE), member(1, ELSEWHERE, OTHER)).step() == []


def test_shards_return_when_bundles_are_on_staying_nodes(
    head: SimpleNamespace,
) -> None:
    away = [member(0, ELSEWHERE, OTHER), member(1, ELSEWHERE, OTHER)]
    moves = Moved(*away)
    head.drains = {THERE}  # where the second one was
    assert moves.step() == []
    head.drains, head.stays, head.placed = set(), {HERE, ELSEWHERE}, False  # it has stopped
    for unplaced in (THERE, "", "ff"):
        head.bundles = {0: HERE, 1: HERE, 2: unplaced}
        assert moves.step() == []
    head.bundles, head.placed = {0: HERE, 1: HERE, 2: ELSEWHERE}, True
    assert moves.step() == [("back", away)]


def test_shards_release_room_after_pending_limit(
    head: SimpleNamespace, clock: SimpleNamespace
) -> None:
    moves = Moved(away := member(1, ELSEWHERE, OTHER))
    head.stays, head.bundles, head.placed = {HERE, ELSEWHERE}, {1: HERE, 2: ""}, False
    assert moves.step() == []
    clock.now += moves_module.PENDING_LIMIT_S - 1
    assert moves.step() == []
    head.bundles[2], head.placed = THERE, True  # on a node that has just stopped, too
    assert moves.step() == []
    head.bundles[2], head.placed = "", False
    clock.now += 2
    assert moves.step() == []  # it is pending again since then
    clock.now += moves_module.PENDING_LIMIT_S
    assert moves.step() == [("make room", [away])]


def test_move_back_resets_pending_time(head: SimpleNamespace, clock: SimpleNamespace) -> None:
    moves = Moved(away := member(1, ELSEWHERE, OTHER))
    head.stays, head.bundles, head.placed = {HERE, ELSEWHERE}, {1: HERE, 2: ""}, False
    assert moves.step() == []
    head.bundles[2], head.placed = ELSEWHERE, True
    assert moves.step() == [("back", [away])]
    clock.now += 3600
    head.bundles[2], head.placed = "", False  # another node has stopped
    assert moves.step() == []


def test_shards_keep_room_while_another_node_drains(
    head: SimpleNamespace, clock: SimpleNamespace
) -> None:
    """Released room would not help: both bundles wait for that node."""
    away = [member(0, ELSEWHERE, OTHER), member(1, ELSEWHERE, OTHER)]
    moves = Moved(*away)
    head.drains, head.placed, head.bundles = {THERE}, False, {1: "", 2: THERE}
    for _ in range(10):
        assert moves.step() == []
        clock.now += 2
    head.drains, head.stays, head.bundles[2] = set(), {HERE, ELSEWHERE}, ""
    assert moves.step() == []
    clock.now += moves_module.PENDING_LIMIT_S
    assert moves.step() == [("make room", away)]


def test_shards_that_leave_again_return_if_there_is_room(head: SimpleNamespace) -> None:
    moves = Moved(away := member(1, ELSEWHERE, OTHER))
    head.drains, head.bundles = {ELSEWHERE}, {1: HERE, 2: THERE}
    assert moves.step() == [("back", [away])]
    head.bundles[2] = ELSEWHERE
    assert moves.step() == [("away", [away])]
    # Others that are away with it, and have no room yet, are not waited for.
    homeless = member(0, THERE, OTHER)
    head.bundles = {1: "", 2: THERE}
    assert Moved(homeless, away).step() == [("back", [away])]


@pytest.mark.parametrize("room", [True, False])
def test_room_is_released_before_shards_load(
    head: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, room: bool
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
    started: list[object] = []
    moves = Moves(
        SimpleNamespace(bundle_of=REPLICA.bundle_of, settings=settings),
        OWN,
        lambda: [away],
        lambda leaving, start: started.extend(start()),
        ended,
    )
    ended.clear()
    head.bundles = {1: HERE, 2: THERE if room else ""}
    if room:
        moves._make_room([away])
        assert done == [("end", away), ("remove", OTHER), {(1, 0): 2}]
        assert started == ["loaded"]
    else:
        with pytest.raises(
            PlanError, match=r"stage 1, rank 0: no room for their bundles within 0.3 s"
        ):
            moves._make_room([away])
        assert done == [("end", away), ("remove", OTHER)]


def test_shards_in_replica_group_do_not_return(head: SimpleNamespace) -> None:
    assert Moved(member(0, HERE), member(1, THERE)).step() == []

"""A hand-over of shards that fails gives the replica up, whatever it failed by."""

from __future__ import annotations

import contextlib
import threading
from types import SimpleNamespace

import pytest

from cluster.errors import GroupLostError, PlanError, ProgramError, TransportError
from cluster.runtime.shared_lock import SharedLock
from deployments.shards import program as program_module
from deployments.shards.members import Member
from deployments.shards.program import ShardedProgram

STAYS, LEAVES, COMES = (Member(shard, None, None) for shard in ((0, 0), (1, 0), (1, 0)))


class Group:
    """Of a pipeline, as far as it is asked for."""

    broken: str | None = None

    def fail(self, reason: str) -> None:
        self.broken = self.broken or reason


class Pipeline:
    def __init__(self, *members: Member) -> None:
        self.members, self.group = members, Group()

    def close(self, timeout_s: float) -> dict:
        self.group.broken = "it was closed"
        return {}


@pytest.fixture
def sharded(monkeypatch: pytest.MonkeyPatch) -> ShardedProgram:
    """A program of two shards that serve, without Ray. ``lost`` and ``ended`` are kept in it."""
    monkeypatch.setattr(program_module, "_meeting", contextlib.nullcontext)
    monkeypatch.setattr(program_module, "Watch", lambda *_: SimpleNamespace(stop=lambda: None))
    made = ShardedProgram.__new__(ShardedProgram)
    made.lost, made.ended = [], []
    monkeypatch.setattr(program_module, "end", made.ended.extend)
    made._replica = SimpleNamespace(settings=SimpleNamespace(failure_timeout_s=4.0))
    made._report, made._lost = print, made.lost.append
    made.lanes = 2
    made._running, made._changing, made._ending = SharedLock(), threading.Lock(), threading.Lock()
    made._moving, made._reason, made._ended = False, None, threading.Event()
    made._pipeline = Pipeline(STAYS, LEAVES)
    made._watch = made._watched()
    return made


def connecting(monkeypatch: pytest.MonkeyPatch, error: Exception | None) -> None:
    def connect(replica, members, meeting, **_):
        if error is not None:
            raise error
        return Pipeline(*members)

    monkeypatch.setattr(program_module, "connect", connect)


def test_the_others_stay_and_the_new_one_serves(
    sharded: ShardedProgram, monkeypatch: pytest.MonkeyPatch
) -> None:
    connecting(monkeypatch, None)
    assert sharded.broken is None
    sharded._hand_over([LEAVES], lambda: [COMES])
    assert list(sharded._pipeline.members) == [STAYS, COMES]
    assert (sharded.broken, sharded.lost, sharded.ended) == (None, [], [])


@pytest.mark.parametrize("error", [TransportError("gone"), ProgramError("no"), RuntimeError("?")])
def test_shards_that_are_not_connected_end_the_replica(
    sharded: ShardedProgram, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    connecting(monkeypatch, error)
    with pytest.raises(type(error)):
        sharded._hand_over([LEAVES], lambda: [COMES])
    assert sharded.lost == [f"the shards were not connected anew: {error}"]
    assert sharded.broken == sharded.lost[0]
    assert sharded.ended == [STAYS, LEAVES]
    with sharded._running.shared():  # who waited is let through, and told
        pass


def test_shards_that_do_not_come_end_the_replica(
    sharded: ShardedProgram, monkeypatch: pytest.MonkeyPatch
) -> None:
    connecting(monkeypatch, None)

    def come() -> list[Member]:
        assert sharded.broken is None  # nothing is wrong while they move
        raise PlanError("no room")

    with pytest.raises(PlanError):
        sharded._hand_over([LEAVES], come)
    assert sharded.lost == ["the shards were not connected anew: no room"]


def test_a_replica_that_ends_moves_nothing(sharded: ShardedProgram) -> None:
    sharded._give_up("a shard is unavailable")
    with pytest.raises(GroupLostError):
        sharded._hand_over([LEAVES], lambda: pytest.fail("it came"))
    assert sharded.lost == ["a shard is unavailable"]
    assert sharded.broken == "a shard is unavailable"

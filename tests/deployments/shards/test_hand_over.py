"""Hand-over of shards: any failure ends the replica."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from cluster.errors import GroupLostError, PlanError, ProgramError, TransportError
from deployments.shards import program as program_module
from deployments.shards.members import Member
from deployments.shards.program import ShardedProgram

STAYS, LEAVES, COMES = (Member(shard, None, None) for shard in ((0, 0), (1, 0), (1, 0)))


class Group:
    """Stub of a pipeline's group."""

    broken: str | None = None

    def fail(self, reason: str) -> None:
        self.broken = self.broken or reason


class Pipeline:
    def __init__(self, *members: Member) -> None:
        self.members, self.group = members, Group()

    def close(self, timeout_s: float) -> dict:
        self.group.broken = "it was closed"
        return {}


@dataclass(frozen=True)
class Sharded:
    """Program of two serving shards, without Ray."""

    program: ShardedProgram
    lost: list[str]
    """Reported reasons of failures."""

    ended: list[Member]


@pytest.fixture
def sharded(monkeypatch: pytest.MonkeyPatch) -> Sharded:
    monkeypatch.setattr(program_module, "_rendezvous", contextlib.nullcontext)
    monkeypatch.setattr(program_module, "Watch", lambda *_: SimpleNamespace(stop=lambda: None))
    ended: list[Member] = []
    lost: list[str] = []
    monkeypatch.setattr(program_module, "end", ended.extend)
    settings = SimpleNamespace(failure_timeout_s=4.0, max_inflight=2)
    program = ShardedProgram(
        SimpleNamespace(settings=settings, layout=None), Pipeline(STAYS, LEAVES), print, lost.append
    )
    return Sharded(program, lost, ended)


def connecting(monkeypatch: pytest.MonkeyPatch, error: Exception | None) -> None:
    def connect(replica, members, meeting, **_):
        if error is not None:
            raise error
        return Pipeline(*members)

    monkeypatch.setattr(program_module, "connect", connect)


def test_hand_over_keeps_other_shards(sharded: Sharded, monkeypatch: pytest.MonkeyPatch) -> None:
    connecting(monkeypatch, None)
    assert sharded.program.broken is None
    sharded.program._hand_over([LEAVES], lambda: [COMES])
    assert list(sharded.program._pipeline.members) == [STAYS, COMES]
    assert (sharded.program.broken, sharded.lost, sharded.ended) == (None, [], [])


@pytest.mark.parametrize("error", [TransportError("gone"), ProgramError("no"), RuntimeError("?")])
def test_failed_connection_ends_replica(
    sharded: Sharded, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    connecting(monkeypatch, error)
    with pytest.raises(type(error)):
        sharded.program._hand_over([LEAVES], lambda: [COMES])
    assert sharded.lost == [f"the shards could not be connected again: {error}"]
    assert sharded.program.broken == sharded.lost[0]
    assert sharded.ended == [STAYS, LEAVES]
    with sharded.program._run_lock.shared():  # waiting requests continue, and fail
        pass


def test_failed_start_of_shards_ends_replica(
    sharded: Sharded, monkeypatch: pytest.MonkeyPatch
) -> None:
    connecting(monkeypatch, None)

    def start() -> list[Member]:
        assert sharded.program.broken is None  # a move is no failure
        raise PlanError("no room")

    with pytest.raises(PlanError):
        sharded.program._hand_over([LEAVES], start)
    assert sharded.lost == ["the shards could not be connected again: no room"]


def test_ended_replica_moves_no_shards(sharded: Sharded) -> None:
    sharded.program._fail("a shard is unavailable")
    with pytest.raises(GroupLostError):
        sharded.program._hand_over([LEAVES], lambda: pytest.fail("it came"))
    assert sharded.lost == ["a shard is unavailable"]
    assert sharded.program.broken == "a shard is unavailable"

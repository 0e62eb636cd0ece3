"""A hand-over of shards that fails gives the replica up, whatever it failed by."""

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


@dataclass(frozen=True)
class Sharded:
    """A program of two shards that serve, without Ray."""

    program: ShardedProgram
    lost: list[str]
    """Reasons for which it was reported lost."""

    ended: list[Member]


@pytest.fixture
def sharded(monkeypatch: pytest.MonkeyPatch) -> Sharded:
    monkeypatch.setattr(program_module, "_meeting", contextlib.nullcontext)
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


def test_the_others_stay_and_the_new_one_serves(
    sharded: Sharded, monkeypatch: pytest.MonkeyPatch
) -> None:
    connecting(monkeypatch, None)
    assert sharded.program.broken is None
    sharded.program._hand_over([LEAVES], lambda: [COMES])
    assert list(sharded.program._pipeline.members) == [STAYS, COMES]
    assert (sharded.program.broken, sharded.lost, sharded.ended) == (None, [], [])


@pytest.mark.parametrize("error", [TransportError("gone"), ProgramError("no"), RuntimeError("?")])
def test_shards_that_are_not_connected_end_the_replica(
    sharded: Sharded, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    connecting(monkeypatch, error)
    with pytest.raises(type(error)):
        sharded.program._hand_over([LEAVES], lambda: [COMES])
    assert sharded.lost == [f"the shards were not connected anew: {error}"]
    assert sharded.program.broken == sharded.lost[0]
    assert sharded.ended == [STAYS, LEAVES]
    with sharded.program._running.shared():  # who waited is let through, and told
        pass


def test_shards_that_do_not_come_end_the_replica(
    sharded: Sharded, monkeypatch: pytest.MonkeyPatch
) -> None:
    connecting(monkeypatch, None)

    def come() -> list[Member]:
        assert sharded.program.broken is None  # nothing is wrong while they move
        raise PlanError("no room")

    with pytest.raises(PlanError):
        sharded.program._hand_over([LEAVES], come)
    assert sharded.lost == ["the shards were not connected anew: no room"]


def test_a_replica_that_ends_moves_nothing(sharded: Sharded) -> None:
    sharded.program._give_up("a shard is unavailable")
    with pytest.raises(GroupLostError):
        sharded.program._hand_over([LEAVES], lambda: pytest.fail("it came"))
    assert sharded.lost == ["a shard is unavailable"]
    assert sharded.program.broken == "a shard is unavailable"

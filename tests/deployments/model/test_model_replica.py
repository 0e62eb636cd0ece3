"""Which of an artifact's programs a replica takes, and when it is asked whether it is well."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import ray

from cluster.errors import GroupLostError, ProgramError
from cluster.program import node, program
from deployments.model.health import Health
from deployments.model.replica import choose_program


class Entry(SimpleNamespace):
    """A program of a kind that runs on every CPU and GPU."""

    kind = "exported"
    cpu_features = ()

    @property
    def key(self) -> str:
        return f"{self.target}:{self.kind}"


def artifact(*targets: str) -> SimpleNamespace:
    entries = tuple(Entry(target=target, file=f"programs/{target}.pt2") for target in targets)
    manifest = SimpleNamespace(name="m", programs=entries, measured={}, fastest={})
    return SimpleNamespace(manifest=manifest)


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch):
    """``given(["0"])``: a replica on a node with a GPU, to which Ray gave the GPUs of that id."""
    fits = program.ProgramKind(load=lambda *_: None, misfit=lambda entry: None)
    monkeypatch.setitem(program.PROGRAM_KINDS, "exported", fits)
    monkeypatch.setattr(node, "targets", lambda: ("cuda-sm90", "cpu-x86"))

    def give(gpus: list[str]) -> None:
        context = SimpleNamespace(get_accelerator_ids=lambda: {"GPU": gpus, "TPU": []})
        monkeypatch.setattr(ray, "get_runtime_context", lambda: context)

    return give


@pytest.mark.parametrize(("gpus", "target"), [(["0"], "cuda-sm90"), ([], "cpu-x86")])
def test_a_program_for_a_gpu_is_only_taken_by_a_replica_that_has_one(
    given, gpus: list[str], target: str
) -> None:
    given(gpus)
    assert choose_program(artifact("cpu-x86", "cuda-sm90")).entry.target == target


def test_a_replica_without_a_gpu_says_what_to_set_where_there_is_no_other_program(given) -> None:
    given([])
    with pytest.raises(ProgramError, match=r"Built: cuda-sm90:exported.*set num_gpus in its"):
        choose_program(artifact("cuda-sm90"))
    given(["0"])
    with pytest.raises(ProgramError, match="no program is built for cuda-sm90") as caught:
        choose_program(artifact("cuda-sm80"))
    assert "num_gpus" not in str(caught.value)


@dataclass
class Batches:
    """A batcher that was idle for long, and counts its probes."""

    alive: bool = True
    last_finished: float = -math.inf
    probes: int = 0

    async def submit(self, arrays: Sequence[np.ndarray]) -> None:
        self.probes += 1


@dataclass
class Shards:
    broken: str | None = None
    moving: bool = False


def test_replica_is_not_probed_while_its_shards_move() -> None:
    # Requests wait meanwhile, and a probe would, too: the health checks would end the replica.
    batches, shards = Batches(), Shards(moving=True)
    health = Health(batches, [], shards)
    asyncio.run(health.check())
    assert batches.probes == 0
    shards.moving = False
    asyncio.run(health.check())
    assert batches.probes == 1


def test_replica_is_unhealthy_without_thread_or_shards() -> None:
    with pytest.raises(ProgramError, match="the compute thread has ended"):
        asyncio.run(Health(Batches(alive=False), []).check())
    with pytest.raises(GroupLostError, match="a shard is unavailable"):
        asyncio.run(Health(Batches(), [], Shards(broken="a shard is unavailable")).check())

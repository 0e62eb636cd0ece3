"""Choice of a replica's program, and its health checks."""

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
    """Program of a kind that runs on every CPU and GPU."""

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
def assign_gpus(monkeypatch: pytest.MonkeyPatch):
    """Return ``assign_gpus(["0"])``: Ray assigns GPUs to a replica on a node that has one."""
    fits = program.ProgramKind(load=lambda *_: None, misfit=lambda entry: None)
    monkeypatch.setitem(program.PROGRAM_KINDS, "exported", fits)
    monkeypatch.setattr(node, "targets", lambda: ("cuda-sm90", "cpu-x86"))

    def assign(gpus: list[str]) -> None:
        context = SimpleNamespace(get_accelerator_ids=lambda: {"GPU": gpus, "TPU": []})
        monkeypatch.setattr(ray, "get_runtime_context", lambda: context)

    return assign


@pytest.mark.parametrize(("gpus", "target"), [(["0"], "cuda-sm90"), ([], "cpu-x86")])
def test_gpu_program_needs_assigned_gpu(assign_gpus, gpus: list[str], target: str) -> None:
    assign_gpus(gpus)
    assert choose_program(artifact("cpu-x86", "cuda-sm90")).entry.target == target


def test_replica_without_gpu_and_cpu_program_names_num_gpus(assign_gpus) -> None:
    assign_gpus([])
    with pytest.raises(ProgramError, match=r"Built: cuda-sm90:exported.*set num_gpus in its"):
        choose_program(artifact("cuda-sm90"))
    assign_gpus(["0"])
    with pytest.raises(ProgramError, match="no program is built for cuda-sm90") as error:
        choose_program(artifact("cuda-sm80"))
    assert "num_gpus" not in str(error.value)


@dataclass
class Batches:
    """Batcher that was idle for long, and counts its probes."""

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
    # A probe would wait like the requests, and its timeout would end the replica.
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

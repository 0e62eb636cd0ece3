"""Which of an artifact's programs a replica takes, and when it is asked whether it is well."""

from __future__ import annotations

import asyncio
import math
from types import SimpleNamespace

import pytest
import ray

from cluster.errors import ProgramError
from cluster.program import node, program
from deployments.model.replica import ModelReplica, choose_program


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


def test_a_replica_whose_shards_move_is_not_probed() -> None:
    """What is asked meanwhile waits, and the health checks would end the replica."""
    replica = ModelReplica.__new__(ModelReplica)
    replica._model = SimpleNamespace(metrics=SimpleNamespace(loaded=lambda seconds: None))
    replica._load_s, replica._probe = 1.0, []
    replica._batcher = SimpleNamespace(
        alive=True,
        last_finished=-math.inf,
        submit=lambda probe: pytest.fail("it was probed"),
        close=lambda: None,
    )
    replica._sharded = SimpleNamespace(broken=None, moving=True, close=lambda: None)
    asyncio.run(replica.check_health())
    replica._sharded.moving = False
    with pytest.raises(pytest.fail.Exception, match="it was probed"):
        asyncio.run(replica.check_health())

"""Shards move to another place and back under load; see tests/nodes for nodes that drain."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from benchmarks.parallelism.cases import CASES
from cluster.artifact.local import LocalStore
from deployments.local import LocalCluster


def moved(cluster: LocalCluster, store: Path, name: str, key: str, stage: int) -> dict[str, Any]:
    script = Path(__file__).with_name("moving_shards.py")
    root = str(Path(__file__).parents[3])  # where the models of the benchmarks are
    done = subprocess.run(
        [sys.executable, str(script), str(store), name, key, str(stage)],
        env={**os.environ, **cluster.environment(), "PYTHONPATH": root},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"slowest micro-batch, of two moves: {found['slowest_s']:.2f} s")
    return found


def require_all_answered(found: dict[str, Any]) -> None:
    assert found["wrong"] == []
    assert found["lost"] == []
    assert found["answered"] > 100
    assert found["slowest_s"] < 5
    # What shards have done is counted on, wherever they run.
    for earlier, later in pairwise(found["counted"]):
        assert all(after >= before for before, after in zip(earlier, later, strict=True))
    assert min(found["counted"][-1]) >= found["answered"]
    assert found["groups"] == []


@pytest.mark.slow
def test_every_micro_batch_is_answered_and_nothing_is_left(
    cluster: LocalCluster, cut_artifact_store: Path
) -> None:
    found = moved(cluster, cut_artifact_store, "tiny-cut", "cpu-x86/openvino/pp2.tp1", 1)
    require_all_answered(found)
    assert found["stages"] == [0, 1]
    before, away, back = found["actors"]
    assert before[0] == away[0] == back[0]
    assert len({before[1], away[1], back[1]}) == 3


@pytest.mark.slow
def test_tensor_ranks_move_together(cluster: LocalCluster, tmp_path: Path) -> None:
    from cluster.compression import job  # which imports PyTorch

    recipe = CASES["bert-tensor"].quick().recipe()
    artifact = job.run(recipe, LocalStore(tmp_path), print).artifact
    assert artifact is not None
    name = artifact.manifest.name
    found = moved(cluster, tmp_path, name, "cpu-x86/exported/pp1.tp2", 0)
    require_all_answered(found)
    before, away, back = found["actors"]
    assert len({*before, *away, *back}) == 6

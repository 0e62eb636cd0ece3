"""Moves of shards to another placement group and back, under load.

See tests/nodes for draining nodes.
"""

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


def move_shards(
    cluster: LocalCluster, store: Path, name: str, key: str, stage: int
) -> dict[str, Any]:
    script = Path(__file__).with_name("moving_shards.py")
    root = str(Path(__file__).parents[3])  # for the benchmarks' models
    done = subprocess.run(
        [sys.executable, str(script), str(store), name, key, str(stage)],
        env={**os.environ, **cluster.environment(), "PYTHONPATH": root},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    results: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"slowest micro-batch, of two moves: {results['slowest_s']:.2f} s")
    return results


def require_all_answered(results: dict[str, Any]) -> None:
    assert results["wrong"] == []
    assert results["lost"] == []
    assert results["answered"] > 100
    assert results["slowest_s"] < 5
    # The counters of a shard continue after a move.
    for earlier, later in pairwise(results["counted"]):
        assert all(after >= before for before, after in zip(earlier, later, strict=True))
    assert min(results["counted"][-1]) >= results["answered"]
    assert results["groups"] == []


@pytest.mark.slow
def test_moves_lose_no_micro_batch_and_leave_no_group(
    cluster: LocalCluster, cut_artifact_store: Path
) -> None:
    results = move_shards(cluster, cut_artifact_store, "tiny-cut", "cpu-x86/openvino/pp2.tp1", 1)
    require_all_answered(results)
    assert results["stages"] == [0, 1]
    before, away, back = results["actors"]
    assert before[0] == away[0] == back[0]
    assert len({before[1], away[1], back[1]}) == 3


@pytest.mark.slow
def test_tensor_ranks_move_together(cluster: LocalCluster, tmp_path: Path) -> None:
    from cluster.compression import job  # which imports PyTorch

    recipe = CASES["bert-tensor"].quick().recipe()
    artifact = job.run(recipe, LocalStore(tmp_path), print).artifact
    assert artifact is not None
    name = artifact.manifest.name
    results = move_shards(cluster, tmp_path, name, "cpu-x86/exported/pp1.tp2", 0)
    require_all_answered(results)
    before, away, back = results["actors"]
    assert len({*before, *away, *back}) == 6

"""Layouts of the compression job: equal answers, and a part of the tensors in each shard."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file
from support.local_shards import LocalShardGroup
from support.marks import LONG_S

from cluster.artifact.artifact import WEIGHTS, Artifact
from cluster.artifact.local import LocalStore
from cluster.compression import job
from cluster.errors import PlanError
from cluster.program.program import load
from cluster.program.stage_ranks import StageRanks
from cluster.runtime.shard import Run


@pytest.fixture(scope="module")
def cut(cut_artifact_store: Path) -> Artifact:
    return LocalStore(cut_artifact_store).open("tiny-cut")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, tiny_recipe) -> Artifact:
    root = tmp_path_factory.mktemp("exported")
    recipe = tiny_recipe(
        "tiny-exported",
        None,
        programs=[{"kinds": ["exported"]}],
        parallel=[{"pipeline": 3}, {"pipeline": 2}],
    )
    artifact = job.run(recipe, LocalStore(root), print).artifact
    assert artifact is not None
    return artifact


def random_input(artifact: Artifact, rows: int) -> np.ndarray:
    (spec,) = artifact.manifest.inputs
    return np.random.default_rng(rows).standard_normal((rows, *spec.item_shape)).astype(spec.dtype)


@pytest.mark.timeout(LONG_S)  # its fixture, named by a parameter, may build an artifact
@pytest.mark.parametrize("name", ["cut", pytest.param("exported", marks=pytest.mark.slow)])
def test_shards_answer_bit_exact_like_whole_program(
    name: str, request: pytest.FixtureRequest
) -> None:
    artifact: Artifact = request.getfixturevalue(name)
    whole = load(artifact, compute_threads=1)
    assert artifact.manifest.layouts
    for layout in artifact.manifest.layouts:
        stages = [StageRanks.load(artifact, layout, s, 1) for s in range(layout.pipeline)]
        runs = [[lambda arrays, stage=stage: stage.run([arrays])[0]] for stage in stages]
        group = LocalShardGroup(runs, max_inflight=3)
        try:
            require_same(artifact, group.run, whole.run)
        finally:
            group.close()


def require_same(artifact: Artifact, cut: Run, whole: Run) -> None:
    @settings(max_examples=20, derandomize=True, database=None)
    @given(rows=st.integers(1, 16))
    def same(rows: int) -> None:
        array = random_input(artifact, rows)
        np.testing.assert_array_equal(cut([array])[0], whole([array])[0])

    same()


@pytest.mark.slow
def test_each_shard_has_its_part_of_tensors(exported: Artifact) -> None:
    whole = load_file(exported.path / WEIGHTS)
    for layout in exported.manifest.layouts:
        parts = [load_file(exported.file(shard.weights)) for shard in layout.shards]
        assert len(parts) == layout.pipeline
        assert all(0 < _size(part) < _size(whole) for part in parts)
        # Buffers that count batches in training are no part of what is computed.
        assert sum(_size(part) for part in parts) == pytest.approx(_size(whole), rel=0.01)


def _size(tensors: dict[str, np.ndarray]) -> int:
    return sum(tensor.size for tensor in tensors.values())


def test_manifest_contains_layout_measurements(cut: Artifact) -> None:
    (layout,) = cut.manifest.layouts
    assert (layout.key, len(layout.shards)) == ("cpu-x86/openvino/pp2.tp1", 2)
    assert all(ms > 0 for ms in layout.stage_ms(1))
    assert layout.crossing[0] == cut.manifest.inputs
    assert layout.crossing[-1] == cut.manifest.outputs
    profile = cut.manifest.profile
    assert profile is not None
    assert sum(segment.cost_ms for segment in profile.segments) > 0
    weights = sum(segment.weight_bytes for segment in profile.segments)
    assert weights == pytest.approx((cut.path / WEIGHTS).stat().st_size, rel=0.05)
    cut.verify()


def test_too_many_stages_are_rejected_before_training(tmp_path: Path, tiny_recipe) -> None:
    lines: list[str] = []
    with pytest.raises(PlanError, match=r"parallel\[0\]: pipeline=40 needs 39 cuts.*at most \d"):
        job.run(
            tiny_recipe("too-many", None, parallel=[{"pipeline": 40}]),
            LocalStore(tmp_path),
            lines.append,
        )
    assert not [line for line in lines if line.startswith(("train", "epoch"))]


def test_slices_without_plan_are_rejected_before_training(tmp_path: Path, tiny_recipe) -> None:
    with pytest.raises(PlanError, match=r"parallel\[0\]: no built-in plan for tensor slices"):
        job.run(tiny_recipe("no-plan", None, parallel=[{"tensor": 2}]), LocalStore(tmp_path), print)

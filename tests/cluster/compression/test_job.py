"""Compression job: a recipe becomes a measured artifact, or a rejection with a report."""

from __future__ import annotations

import json
import re
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.marks import LONG_S

from cluster.artifact.artifact import Artifact
from cluster.artifact.local import LocalStore
from cluster.compression import job
from cluster.compression.programs import native_runner
from cluster.config.recipe import Recipe
from cluster.errors import CompressionError
from cluster.program import node

TinyRecipe = Callable[..., Recipe]


def below(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


@pytest.mark.timeout(LONG_S)  # its fixture, named by a parameter, may build an artifact
@pytest.mark.parametrize(
    ("fixture", "operators"),
    [("int8_artifact", 3), pytest.param("bf16_artifact", 4, marks=pytest.mark.slow)],
)
def test_artifact_records_build_and_measurements(
    request: pytest.FixtureRequest, fixture: str, operators: int
) -> None:
    artifact: Artifact = request.getfixturevalue(fixture)
    manifest = artifact.manifest
    artifact.verify()
    on_disk = {str(p.relative_to(artifact.path)) for p in artifact.path.rglob("*") if p.is_file()}
    assert on_disk == {*manifest.files, "manifest.json"}
    program = manifest.programs[0].file
    assert {"weights.safetensors", "report.json", "report.html", program} < on_disk
    counts = {entry.kind: entry.quantized_operators for entry in manifest.programs}
    assert counts["aoti"] == operators
    assert manifest.quantized_operators == counts[manifest.fastest["cpu-x86"]] > 0
    assert manifest.labels == tuple("0123456789")
    assert manifest.inputs[0].shape == (-1, 1, 16, 16)
    assert manifest.outputs[0].shape == (-1, 10)
    assert manifest.image is not None
    assert manifest.programs[0].torch_version == node.torch_version()
    assert set(manifest.programs[0].cpu_features) == node.cpu_features()

    measurement, baseline = manifest.measured["cpu-x86/aoti"], manifest.baseline
    assert baseline is not None
    assert measurement.samples == baseline.samples == 359
    assert baseline.accuracy > 0.75
    assert measurement.accuracy > 0.75
    assert [entry.key for entry in manifest.programs] == list(manifest.measured)
    assert manifest.fastest.keys() == {"cpu-x86"}
    for entry in manifest.programs:
        loaded = sum(manifest.files[name].size_bytes for name in set(entry.loaded_files))
        assert manifest.measured[entry.key].size_bytes == loaded
    assert measurement.drop is not None
    assert measurement.drop.mean == pytest.approx(baseline.accuracy - measurement.accuracy)
    assert measurement.drop.upper > measurement.drop.mean
    for measured in (measurement, baseline):
        assert measured.accuracy_low < measured.accuracy < measured.accuracy_high
        assert [entry.batch for entry in measured.latency] == [1]

    report = json.loads(artifact.file("report.json").read_bytes())
    assert report["accepted"] is True
    assert report["quantized_operators"] == manifest.quantized_operators
    assert report["programs"]["cpu-x86/aoti"]["accuracy"] == measurement.accuracy
    assert report["baseline"]["accuracy"] == baseline.accuracy
    assert report["fastest"] == manifest.fastest["cpu-x86"]
    assert [step["kind"] for step in report["steps"]][-1] == "quantize"
    assert report["seconds"].keys() == {"train", "compress", "compile", "evaluate", "cut"}
    page = artifact.file("report.html").read_text()
    assert page.startswith("<!DOCTYPE html>")
    assert manifest.name in page
    assert Recipe.model_validate(manifest.recipe).name == manifest.name


@pytest.mark.slow
def test_weights_are_stored_in_computing_precision(
    int8_artifact: Artifact, bf16_artifact: Artifact
) -> None:
    int8 = load_file(int8_artifact.file("weights.safetensors"))
    assert sum(tensor.dtype == torch.int8 for tensor in int8.values()) == 3
    bf16 = load_file(bf16_artifact.file("weights.safetensors"))
    assert all(t.dtype == torch.bfloat16 for n, t in bf16.items() if n.endswith(".weight"))
    baseline = int8_artifact.manifest.baseline
    assert baseline is not None
    for artifact, share in ((int8_artifact, 0.25), (bf16_artifact, 0.5)):
        size = artifact.manifest.files["weights.safetensors"].size_bytes
        assert size / baseline.size_bytes == pytest.approx(share, abs=0.02)


@pytest.mark.slow
def test_recipes_with_equal_first_steps_train_once(bf16_artifact_store: Path) -> None:
    logs = {n: (bf16_artifact_store / f"tiny-{n}.log").read_text() for n in ("int8", "bf16")}
    assert "epoch 1/1" in logs["int8"]
    assert "cached result" in logs["bf16"]
    assert "epoch 1/1" not in logs["bf16"]


def test_log_shows_both_models_side_by_side(int8_artifact_store: Path) -> None:
    log = (int8_artifact_store / "tiny-int8.log").read_text()
    for text in ("eager float32)", "95 % CI", "p50/p99", "items/s", "max_accuracy_drop"):
        assert text in log


def test_same_recipe_is_not_built_twice(
    int8_artifact_store: Path, int8_artifact: Artifact, tiny_recipe: TinyRecipe
) -> None:
    lines: list[str] = []
    started = time.monotonic()
    outcome = job.run(
        tiny_recipe("tiny-int8", "static_int8", programs=[{}]),
        LocalStore(int8_artifact_store),
        lines.append,
    )
    assert time.monotonic() - started < 5
    assert outcome.artifact is not None
    assert outcome.artifact.id == int8_artifact.id
    assert lines == [f"artifact {int8_artifact.id} already exists: this recipe was built before"]


def test_finished_job_leaves_no_workspace(int8_artifact_store: Path) -> None:
    assert below(int8_artifact_store / "building") == []


def test_rejected_build_leaves_only_its_report(tiny_recipe: TinyRecipe, tmp_path: Path) -> None:
    lines: list[str] = []
    gate, programs = {"max_bytes": 1000}, [{"kinds": ["exported"]}]
    recipe = tiny_recipe("too-large", "bf16", "linear", gate=gate, programs=programs)
    outcome = job.run(recipe, LocalStore(tmp_path / "store"), lines.append)
    assert outcome.artifact is None
    page, name = below(tmp_path / "store" / "rejected")
    assert page.removesuffix(".html") == name.removesuffix(".json")
    where = tmp_path / "store" / "rejected" / name
    assert outcome.report == str(where)
    assert lines[-1] == f"rejected by the gate; the report is {where}"
    report = json.loads(where.read_bytes())
    assert report["accepted"] is False
    failed = {check["name"]: check for check in report["checks"] if not check["passed"]}
    measured = report["programs"]["cpu-x86/exported"]["size_bytes"]
    assert failed["max_bytes"]["measured"] == measured > 1000
    assert any("max_bytes" in line and "FAILED" in line for line in lines)
    for folder in ("artifacts", "names", "builds", "building"):
        assert below(tmp_path / "store" / folder) == []


def test_default_gate_rejects_damaged_model(tiny_recipe: TinyRecipe, tmp_path: Path) -> None:
    """Check that the default gate rejects a model with nearly all weights zero, untrained."""
    damage = {"kind": "prune", "method": "magnitude", "ratio": 0.97}
    lines: list[str] = []
    recipe = tiny_recipe(
        "damaged",
        None,
        gate={},
        steps=[{"kind": "train", "epochs": 1}, damage],
        programs=[{"kinds": ["exported"]}],
    )
    outcome = job.run(recipe, LocalStore(tmp_path / "store"), lines.append)
    assert outcome.artifact is None
    (page, file) = below(tmp_path / "store" / "rejected")
    report = json.loads((tmp_path / "store" / "rejected" / file).read_bytes())
    checks = {check["name"]: check for check in report["checks"]}
    for name in ("max_accuracy_drop", "min_agreement"):
        assert checks[name]["default"]
        assert not checks[name]["passed"]
        assert f"`{name}: null`" in checks[name]["reason"]
        assert any(line.startswith(f"gate     FAILED  {name} (default): ") for line in lines)
    assert report["programs"]["cpu-x86/exported"]["agreement"]["measure"] == "predictions"
    limits = next(line for line in lines if line.startswith("limits   "))
    assert "min_speedup 1.0 (default), max_size_share 1.0 (default), max_bytes off" in limits
    # The damage is judged against the trained model, and the log says so.
    (baseline,) = [line for line in lines if line.startswith("baseline (")]
    assert baseline.startswith("baseline (trained model, eager float32)  ")
    assert any(line.startswith("baseline ") and "not judge that training" in line for line in lines)
    html = (tmp_path / "store" / "rejected" / page).read_text()
    assert "(default)" in html
    assert below(tmp_path / "store" / "artifacts") == []


@pytest.mark.parametrize("compiler", ["/nowhere/g++", "no-such-compiler"])
def test_missing_compiler_is_named_before_start(
    tiny_recipe: TinyRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiler: str
) -> None:
    monkeypatch.setenv("CXX", compiler)
    lines: list[str] = []
    with pytest.raises(CompressionError, match=re.escape(f"'{compiler}' is not on")) as e:
        job.run(tiny_recipe("digits", "bf16"), LocalStore(tmp_path / "store"), lines.append)
    for advice in ("no C++ compiler", "apt-get install g++", "set CXX to its path"):
        assert advice in str(e.value)
    assert lines == []
    assert not (tmp_path / "store").exists()


def test_missing_python_headers_are_named_with_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Path(native_runner.compiler()).is_file()
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"include": str(tmp_path)})
    with pytest.raises(CompressionError, match=re.escape(f"{tmp_path}/Python.h")) as e:
        native_runner.compiler()
    assert "apt-get install python3-dev" in str(e.value)

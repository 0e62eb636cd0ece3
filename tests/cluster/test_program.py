"""Programs compute what their model computes, without PyTorch's Python package."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.marks import LONG_S

from cluster.artifact.artifact import Artifact
from cluster.config.recipe import Recipe
from cluster.data import PreparedSamples, load_data
from cluster.errors import ArtifactCorruptError, ProgramError
from cluster.program import node, program

BATCHES = (1, 2, 7, 64)


def only(artifact: Artifact, kind: str, /, **fields: Any) -> Artifact:
    """Return the artifact with the program of one kind only, with changed fields in its entry."""
    entry = next(entry for entry in artifact.manifest.programs if entry.kind == kind)
    changes = {"programs": (entry.model_copy(update=fields),), "fastest": {}}
    return dataclasses.replace(artifact, manifest=artifact.manifest.model_copy(update=changes))


def changed(artifact: Artifact, **fields: Any) -> Artifact:
    return only(artifact, "aoti", **fields)


@pytest.fixture(scope="module")
def images(tiny_recipe: Callable[..., Recipe]) -> np.ndarray:
    """Return 64 digits as inputs of the tiny model: float32 [64, 1, 16, 16]."""
    from cluster.models import load_model

    recipe = tiny_recipe("digits", None)
    data = load_data(recipe.data, 0)
    loaded = load_model(recipe.model, data.labels)
    return PreparedSamples(data.test, loaded.inputs, loaded.preprocess).batch(range(64))[0][0]


def eager(artifact: Artifact, arrays: np.ndarray) -> np.ndarray:
    """Return the answers of the artifact's stored weights in eager PyTorch."""
    import torch
    from safetensors.torch import load_file

    from cluster.compression.quantization.half_precision import LowPrecision
    from cluster.compression.quantization.static_int8 import restore_int8
    from cluster.models import load_model

    recipe = Recipe.model_validate(artifact.manifest.recipe)
    module = load_model(recipe.model, artifact.manifest.labels).module
    tensors = load_file(artifact.file("weights.safetensors"))
    if artifact.manifest.name == "tiny-int8":
        module = restore_int8(module, artifact.manifest.inputs, tensors)
    else:
        state = module.state_dict()
        state.update(tensors)
        module.load_state_dict(state)
        module = LowPrecision(module, torch.bfloat16)
    with torch.inference_mode():
        return module(torch.from_numpy(arrays)).numpy()


@pytest.mark.timeout(LONG_S)  # its fixture, named by a parameter, may build an artifact
@pytest.mark.parametrize(
    ("fixture", "kind"),
    [("int8_artifact", "aoti"), ("int8_artifact", "openvino"), ("bf16_artifact", "aoti")],
)
def test_program_matches_stored_weights_at_all_batch_sizes(
    request: pytest.FixtureRequest, images: np.ndarray, fixture: str, kind: str
) -> None:
    artifact: Artifact = request.getfixturevalue(fixture)
    loaded = program.load(only(artifact, kind), 1)
    assert loaded.runner == {"aoti": "native", "openvino": "openvino"}[kind]
    if kind == "aoti" and not any("vnni" in feature for feature in node.cpu_features()):
        # Without VNNI, pairs of int8 products are added in 16 bits: less contrast avoids
        # overflow.
        images = images * np.float32(0.4)
    expected = eager(artifact, images)
    # NNCF calibrates separately, so its int8 is not torchao's.
    tolerance = np.ptp(expected) * (0.1 if (fixture, kind) == ("int8_artifact", "openvino") else 0)
    for batch in BATCHES:
        (logits,) = loaded.run([images[:batch]])
        assert logits.dtype == np.float32
        assert logits.shape == (batch, 10)
        np.testing.assert_allclose(logits, expected[:batch], atol=max(tolerance, 0.05))


@pytest.mark.parametrize("kind", ["aoti", "openvino"])
def test_results_survive_next_run(int8_artifact: Artifact, images: np.ndarray, kind: str) -> None:
    loaded = program.load(only(int8_artifact, kind), 1)
    (first,) = loaded.run([images[:8]])
    copy = first.copy()
    loaded.run([images[8:16]])
    np.testing.assert_array_equal(first, copy)


def test_two_artifacts_run_in_one_process_unchanged(
    int8_artifact: Artifact, bf16_artifact: Artifact, images: np.ndarray
) -> None:
    int8, bf16 = (
        program.load(only(artifact, "aoti"), 1) for artifact in (int8_artifact, bf16_artifact)
    )
    alone = int8.run([images])[0].copy()
    assert (int8.runner, bf16.runner) == ("native", "native")
    np.testing.assert_allclose(bf16.run([images])[0], alone, atol=1)
    np.testing.assert_array_equal(int8.run([images])[0], alone)


def test_choose_takes_fastest_program_that_fits(
    int8_artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = int8_artifact.manifest
    kinds = [entry.kind for entry in manifest.programs]
    assert kinds == ["aoti", "openvino"]
    for fastest, second in (kinds, reversed(kinds)):
        wins = manifest.model_copy(update={"fastest": {"cpu-x86": fastest}})
        artifact = dataclasses.replace(int8_artifact, manifest=wins)
        choice = program.choose(artifact, node.targets())
        assert choice.entry.kind == fastest
        assert choice.reason == "the fastest of aoti, openvino on this node"
        unfit = dataclasses.replace(program.PROGRAM_KINDS[fastest], misfit=lambda entry: "too blue")
        with monkeypatch.context() as patch:
            patch.setitem(program.PROGRAM_KINDS, fastest, unfit)
            choice = program.choose(artifact, node.targets())
            assert choice.entry.kind == second
            assert choice.reason.endswith(f"openvino on this node ({fastest}: too blue)")


@pytest.mark.parametrize(
    ("installed", "reason"),
    [
        (None, r"OpenVINO is not installed \(pip install 'headrace\[openvino\]'\)"),
        ("2020.1.0", r"built by OpenVINO \d+\.\d+\.\d+, installed is 2020\.1\.0"),
    ],
)
def test_openvino_program_needs_equal_or_newer_openvino(
    int8_artifact: Artifact, monkeypatch: pytest.MonkeyPatch, installed: str | None, reason: str
) -> None:
    monkeypatch.setattr(node, "installed_version", lambda package: installed)
    with pytest.raises(ProgramError, match=reason):
        program.load(only(int8_artifact, "openvino"), 1)
    monkeypatch.setattr(node, "installed_version", lambda package: "2099.1.0")
    assert program.load(only(int8_artifact, "openvino"), 1).runner == "openvino"


@pytest.mark.parametrize(
    ("visible", "arguments", "target"),
    [
        (None, [], "cuda-sm90"),
        ("1,0", ["--id=1"], "cuda-sm90"),
        ("", None, None),
    ],
)
def test_gpu_is_detected_without_pytorch(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    visible: str | None,
    arguments: list[str] | None,
    target: str | None,
) -> None:
    tool, log = tmp_path / "nvidia-smi", tmp_path / "arguments"
    tool.write_text(f'#!/bin/sh\necho "$@" > {log}\necho 9.0\necho 8.0\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    node._cuda_targets.cache_clear()
    try:
        targets = node._cuda_targets(visible)
    finally:
        node._cuda_targets.cache_clear()
    assert targets == ((target,) if target else ())
    if arguments is None:
        assert not log.exists()
    else:
        assert log.read_text().split()[2:] == arguments


@pytest.mark.parametrize(
    "fields", [{"python_abi": "cpython-39-x86_64-linux-gnu"}, {"native_runner": None}]
)
def test_pytorch_loader_matches_native_runner(
    int8_artifact: Artifact, images: np.ndarray, fields: dict[str, Any]
) -> None:
    native = program.load(only(int8_artifact, "aoti"), 1)
    fallback = program.load(changed(int8_artifact, **fields), 1)
    assert (native.runner, fallback.runner) == ("native", "python")
    for batch in BATCHES:
        np.testing.assert_array_equal(
            fallback.run([images[:batch]])[0], native.run([images[:batch]])[0]
        )


def test_native_runner_requires_same_pytorch_patch_release(
    int8_artifact: Artifact, images: np.ndarray
) -> None:
    minor = ".".join(node.torch_version().split(".")[:2])
    loaded = program.load(changed(int8_artifact, torch_version=f"{minor}.99"), 1)
    assert loaded.runner == "python"
    assert loaded.run([images])[0].shape == (64, 10)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"cpu_features": ("avx2", "avx1024", "amx_fp4")},
            r"programs/cpu-x86.pt2: its code uses amx_fp4, avx1024, which this CPU lacks",
        ),
        ({"torch_version": "1.13.1"}, r"built for PyTorch 1\.13, installed is \d\.\d+"),
        ({"kind": "tflite"}, "unknown kind 'tflite', expected one of aoti"),
        ({"target": "cuda-sm_90"}, r"no program is built for cpu-x86\. Built: cuda-sm_90"),
    ],
)
def test_load_rejects_unfit_program_with_reason(
    int8_artifact: Artifact, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ProgramError, match=rf"tiny-int8 has no program .*{message}") as caught:
        program.load(changed(int8_artifact, **fields), 1)
    assert "headrace compress" in str(caught.value)


@pytest.mark.parametrize("runner", ["native", "python"])
@pytest.mark.parametrize(
    ("arrays", "actual"),
    [
        ([np.zeros((2, 1, 16, 16))], r"float64\[2, 1, 16, 16\]"),
        ([np.zeros((2, 1, 16, 16), np.int32)], r"int32\[2, 1, 16, 16\]"),
        ([np.zeros((2, 1, 8, 8), np.float32)], r"float32\[2, 1, 8, 8\]"),
        ([np.zeros((2, 256), np.float32)], r"float32\[2, 256\]"),
        ([np.zeros((0, 1, 16, 16), np.float32)], r"float32\[0, 1, 16, 16\]"),
        (
            [np.zeros((4, 1, 16, 16), np.float32)[::2]],
            r"float32\[2, 1, 16, 16\] \(not C-contiguous\)",
        ),
        ([np.zeros((2, 1, 16, 16), np.float32)] * 2, r"float32\[.*\], float32\["),
        ([], ""),
    ],
)
def test_run_rejects_mismatched_arrays(
    int8_artifact: Artifact, runner: str, arrays: list[np.ndarray], actual: str
) -> None:
    entry = {} if runner == "native" else {"native_runner": None}
    loaded = program.load(changed(int8_artifact, **entry), 1)
    assert loaded.runner == runner
    expected = rf"cpu-x86\.pt2 takes input float32\[-1, 1, 16, 16\].*got {actual}"
    with pytest.raises(ProgramError, match=expected):
        loaded.run(arrays)


@pytest.mark.parametrize("which", [0, 1])
def test_load_rejects_changed_native_code(
    int8_artifact: Artifact, tmp_path: Path, which: int
) -> None:
    artifact = only(int8_artifact, "aoti")
    (entry,) = artifact.manifest.programs
    assert entry.native_runner is not None
    for name in (*entry.loaded_files, entry.native_runner):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((int8_artifact.path / name).read_bytes())
    name = (entry.file, entry.native_runner)[which]
    with (tmp_path / name).open("ab") as file:
        file.write(b"\0")
    with pytest.raises(ArtifactCorruptError, match=name):
        program.load(dataclasses.replace(artifact, path=tmp_path), 1)


REPLICA = """
import json, os, sys, tempfile, threading, time
from pathlib import Path
import numpy as np
from cluster.artifact.local import LocalStore
from cluster.program import program

store, name, kind, threads, batch, runs = *sys.argv[1:4], *map(int, sys.argv[4:])
artifact = LocalStore(Path(store)).open(name)
entry = next(entry for entry in artifact.manifest.programs if entry.kind == kind)
loaded = program.load_entry(artifact, entry, threads)
left_after_loading = os.listdir(tempfile.gettempdir())
arrays = [np.zeros((batch, 1, 16, 16), np.float32)]
threads_before = len(os.listdir("/proc/self/task"))
loaded.run(arrays)
threads_after = len(os.listdir("/proc/self/task"))

sys.setswitchinterval(1e-4)
longest_gap_s, ticks, ready, stop = 0.0, 0, threading.Event(), threading.Event()
def tick():
    global ticks
    ready.set()
    while not stop.is_set():
        ticks += 1
        time.sleep(0.0002)
ticker = threading.Thread(target=tick)
ticker.start()
ready.wait()
ticks, started = 0, time.perf_counter()
for _ in range(runs):
    loaded.run(arrays)
took_s, ticked = time.perf_counter() - started, ticks
stop.set()
ticker.join()
print(json.dumps({
    "runner": loaded.runner,
    "imported": sorted({"torch", "nncf", "openvino"} & set(sys.modules)),
    "left": left_after_loading + os.listdir(tempfile.gettempdir()),
    "threads_added": threads_after - threads_before,
    "run_ms": took_s / runs * 1e3,
    "ticks_per_run": ticked / runs,
}))
"""


def replica(
    store: Path, temporary: Path, kind: str, threads: int = 1, batch: int = 8, runs: int = 1
) -> dict[str, Any]:
    """Return the self-report of a process that loads and runs ``tiny-int8`` as a replica does."""
    command = [sys.executable, "-c", REPLICA, str(store), "tiny-int8", kind]
    process = subprocess.run(
        [*command, *map(str, (threads, batch, runs))],
        env={"TMPDIR": str(temporary), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(process.stdout)


@pytest.mark.parametrize(
    ("kind", "runner", "imported"),
    [("aoti", "native", []), ("openvino", "openvino", ["openvino"])],
)
def test_replica_imports_no_torch_and_leaves_no_files(
    int8_artifact_store: Path, tmp_path: Path, kind: str, runner: str, imported: list[str]
) -> None:
    report = replica(int8_artifact_store, tmp_path, kind)
    assert report["runner"] == runner
    assert report["imported"] == imported
    assert report["left"] == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["aoti", "openvino"])
def test_other_threads_run_during_computation(
    int8_artifact_store: Path, tmp_path: Path, kind: str
) -> None:
    report = replica(int8_artifact_store, tmp_path, kind, batch=1024, runs=100)
    # With Python's lock held during a run, another thread would run about once per run.
    assert report["run_ms"] > 1
    assert report["ticks_per_run"] > 5


def test_program_uses_configured_number_of_threads(
    int8_artifact_store: Path, tmp_path: Path
) -> None:
    single, double = (
        replica(int8_artifact_store, tmp_path, "aoti", threads=n, batch=64) for n in (1, 2)
    )
    assert single["threads_added"] == 0  # the caller's own thread computes
    assert double["threads_added"] == 1

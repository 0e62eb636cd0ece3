"""Programs are measured in one process each; failed ones are reported and excluded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from assembled import Assemble, Assembled, quantized, write

from cluster.artifact.entries import FileEntry, Latency
from cluster.artifact.manifest import Measurement
from cluster.compression.evaluation import evaluate, one_program, reference
from cluster.compression.evaluation.evaluate import EvaluationResult
from cluster.compression.programs import aoti, builder, eager
from cluster.errors import CompressionError
from cluster.program import program

Bench = Callable[..., Any]


def evaluate_programs(assembled: Assembled, lines: list[str]) -> EvaluationResult:
    return evaluate.run(
        assembled.artifact.path,
        assembled.recipe,
        assembled.baseline,
        assembled.outputs,
        assembled.scratch,
        lines.append,
    )


@pytest.mark.slow
def test_all_kinds_compute_model_and_fastest_is_chosen(bench: Bench, assemble: Assemble) -> None:
    initial = bench()
    assembled = assemble(initial, "exported", "eager", "openvino", batches=(1, 3))
    evaluation = evaluate_programs(assembled, initial.lines)
    assert evaluation.failed == {}
    assert list(evaluation.programs) == ["cpu-x86/exported", "cpu-x86/eager", "cpu-x86/openvino"]
    for key, measured in evaluation.programs.items():
        assert [entry.batch for entry in measured.latency] == [1, 3], key
        assert measured.drop is not None
        assert measured.drop.mean == pytest.approx(0, abs=0.02)
        assert measured.drop.upper > measured.drop.mean
        assert measured.samples == len(initial.test)
    assert evaluation.baseline.drop is None
    means = {
        k: np.log([e.p50_ms for e in m.latency]).mean() for k, m in evaluation.programs.items()
    }
    assert f"cpu-x86/{evaluation.fastest['cpu-x86']}" == min(means, key=lambda key: means[key])
    files = assembled.artifact.manifest.files
    weights = files["weights.safetensors"].size_bytes
    assert evaluation.programs["cpu-x86/eager"].size_bytes == weights
    graph = [files[f"programs/cpu-x86.{end}"].size_bytes for end in ("xml", "bin")]
    assert evaluation.programs["cpu-x86/openvino"].size_bytes == sum(graph)
    assert sum("scores of the baseline" in line for line in initial.lines) == 1


@pytest.mark.slow
def test_wrong_program_fails_and_others_are_measured(bench: Bench, assemble: Assemble) -> None:
    initial = bench()
    assembled = assemble(initial, "exported", "eager")
    torch.manual_seed(99)
    other = bench().work.module.eval()
    for parameter in other.parameters():
        torch.nn.init.normal_(parameter)
    graph = torch.export.export(
        other, (torch.zeros(16, 1, 16, 16),), dynamic_shapes=({0: torch.export.Dim("batch")},)
    )
    torch.export.save(graph, assembled.artifact.path / "programs/cpu-x86.exported.pt2")
    write(assembled.artifact.path, assembled.artifact.manifest)
    evaluation = evaluate_programs(assembled, initial.lines)
    assert list(evaluation.programs) == ["cpu-x86/eager"]
    assert "does not compute the model" in evaluation.failed["cpu-x86/exported"]
    assert evaluation.fastest == {"cpu-x86": "eager"}
    entries = builder.trim(
        assembled.artifact.manifest.programs,
        evaluation.programs,
        evaluation.static,
        assembled.artifact.path,
    )
    assert [entry.kind for entry in entries] == ["eager"]
    assert not (assembled.artifact.path / "programs/cpu-x86.exported.pt2").exists()
    assert (assembled.artifact.path / "weights.safetensors").exists()


@pytest.mark.slow
def test_evaluation_ends_without_baseline_if_no_program_works(
    bench: Bench, assemble: Assemble
) -> None:
    initial = bench()
    assembled = assemble(initial, "exported")
    (assembled.artifact.path / "programs/cpu-x86.exported.pt2").write_bytes(b"not a graph")
    write(assembled.artifact.path, assembled.artifact.manifest)
    evaluation = evaluate_programs(assembled, initial.lines)
    assert evaluation.programs == {}
    assert evaluation.fastest == {}
    assert "cannot be loaded" in evaluation.failed["cpu-x86/exported"]
    assert evaluation.baseline is None
    assert "measure  ends: no program for cpu-x86 works" in initial.lines
    assert not any("of the baseline" in line or "latency" in line for line in initial.lines)


def test_broken_baseline_fails_evaluation_and_no_program(
    bench: Bench, assemble: Assemble, tmp_path: Path
) -> None:
    initial = bench()
    assembled = assemble(initial, "eager")
    assembled.baseline.write_bytes(b"broken")
    with pytest.raises(CompressionError, match=r"could not be evaluated[^*]*safetensors"):
        evaluate_programs(assembled, initial.lines)


def test_eager_program_loads_with_unknown_recipe_steps(bench: Bench, assemble: Assemble) -> None:
    """A search writes a calibration for every scheme, which a recipe may not name."""
    initial = bench()
    artifact = assemble(initial, "eager").artifact
    step = {"kind": "quantize", "scheme": "bf16", "calibration": "minmax"}
    recipe = {**artifact.manifest.recipe, "steps": [step]}
    manifest = artifact.manifest.model_copy(update={"recipe": recipe})
    loaded = program.load(write(artifact.path, manifest), 1)
    arrays, _ = initial.test.batch(range(3))
    expected = initial.work.module(*map(torch.from_numpy, arrays)).detach().numpy()
    np.testing.assert_allclose(loaded.run(arrays)[0], expected, atol=1e-5)


@pytest.mark.slow
def test_aoti_static_shapes_compute_model(bench: Bench, assemble: Assemble) -> None:
    initial = bench()
    assembled = assemble(initial, "aoti", batches=(1, 3))
    artifact = assembled.artifact
    (entry,) = artifact.manifest.programs
    assert {static_file.batch: static_file.file for static_file in entry.static_files} == {
        1: "programs/cpu-x86.batch-1.pt2",
        3: "programs/cpu-x86.batch-3.pt2",
    }
    loaded = program.load(artifact, 1)
    assert loaded.runner == "native"
    for batch in (1, 2, 3):
        difference = reference.check(
            lambda arrays: loaded.run(arrays)[0], assembled.expected, batch
        )
        assert difference < 1e-5
    # The static program runs its batch, also without the dynamic one.
    alone = entry.model_copy(
        update={"file": entry.static_files[1].file, "static_files": entry.static_files[:1]}
    )
    one = program.load_entry(artifact, alone, 1)
    images = initial.test.batch(range(1))[0]
    np.testing.assert_allclose(one.run(images)[0], loaded.run(images)[0], atol=1e-5)


def curve(*p50_ms: float) -> tuple[Latency, ...]:
    return tuple(Latency(batch=b, p50_ms=t, p99_ms=t) for b, t in zip((1, 3), p50_ms, strict=True))


@pytest.mark.parametrize(
    ("static", "limit", "batches"),
    [
        (curve(9.8, 19.0), 1e9, (3,)),  # 2 % is too little
        (curve(5.0, 19.0), 1e9, (1, 3)),
        (curve(5.0, 19.0), 250, (1,)),  # the limit fits one: the one that gains more
        (curve(5.0, 19.0), 150, ()),
        (curve(11.0, 21.0), 1e9, ()),
    ],
)
def test_static_shapes_are_kept_if_faster_and_within_limit(
    bench: Bench, static: tuple[Latency, ...], limit: float, batches: tuple[int, ...]
) -> None:
    entry = _entry("a.pt2", {1: "b.pt2", 3: "c.pt2"})
    files = {name: FileEntry(sha256="0" * 64, size_bytes=100) for name in entry.loaded_files}
    timed = {"program": curve(10.0, 20.0), "static": static}
    loaded: Any = type("Loaded", (), {"entry": entry})()
    assert one_program._static_batches(entry, loaded, timed, files, limit) == batches


def _entry(file: str, static: dict[int, str]) -> Any:
    from cluster.artifact.entries import ProgramEntry, StaticFile

    return ProgramEntry(
        kind="aoti",
        target="cpu-x86",
        file=file,
        cpu_features=(),
        torch_version="2.14",
        native_runner=None,
        python_abi=None,
        static_files=tuple(StaticFile(batch=b, file=f) for b, f in static.items()),
    )


def test_fastest_program_of_target_counts_all_batches() -> None:
    def measured(*p50_ms: float) -> Measurement:
        return Measurement(
            accuracy=1,
            accuracy_low=1,
            accuracy_high=1,
            samples=1,
            latency=curve(*p50_ms),
            size_bytes=1,
        )

    programs = {
        "cpu-x86/aoti": measured(2.0, 8.0),
        "cpu-x86/openvino": measured(3.0, 5.0),
        "cuda-sm90/aoti": measured(9.0, 9.0),
    }
    evaluation = EvaluationResult(programs=programs, baselines={})
    assert evaluation.fastest == {"cpu-x86": "openvino", "cuda-sm90": "aoti"}
    assert list(evaluation.fastest) == ["cpu-x86", "cuda-sm90"]
    assert programs["cpu-x86/aoti"].typical_ms == pytest.approx(4.0)


def test_named_kind_must_build(bench: Bench, assemble: Assemble) -> None:
    initial = bench()
    work = quantized(initial.work, "static_int8")
    with pytest.raises(CompressionError, match=r"cpu-x86/eager cannot be built.*static_int8"):
        assemble(initial, "eager", work=work)


def test_default_kind_may_fail_with_reason(
    bench: Bench, assemble: Assemble, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> str:
        return "not this one"

    initial = bench()
    monkeypatch.setitem(builder.BUILDERS, "aoti", replace(builder.BUILDERS["aoti"], refusal=refuse))
    pytest.importorskip("openvino")
    assembled = assemble(initial)
    assert [entry.kind for entry in assembled.built.entries] == ["openvino"]
    assert assembled.built.failed == {"cpu-x86/aoti": "not this one"}
    assert "compile  no aoti for cpu-x86: not this one" in initial.lines


def test_gpu_program_requires_gpu(bench: Bench) -> None:
    initial = bench()
    if torch.cuda.is_available():
        pytest.skip("this machine has one")
    for kind in (aoti, eager):
        assert "no CUDA" in str(kind.refusal(None, "cuda-sm90", initial.recipe))

"""OpenVINO programs compute the model in the recipe's precision, except for its kept layers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from assembled import Assemble, quantized, write

from cluster.artifact.artifact import Artifact
from cluster.artifact.manifest import Manifest
from cluster.compression.evaluation import reference
from cluster.compression.programs import openvino as building
from cluster.compression.programs import requirements
from cluster.compression.programs.files import ProgramFiles
from cluster.compression.work import Work
from cluster.config.recipe import ProgramBuild
from cluster.errors import ArtifactCorruptError, CompressionError, ProgramError
from cluster.program import node, program
from cluster.tensors import TensorSpec

openvino = pytest.importorskip("openvino")
pytest.importorskip("nncf")

Bench = Callable[..., Any]


def graph_of(artifact: Artifact) -> Any:
    (entry,) = artifact.manifest.programs
    return openvino.Core().read_model(artifact.path / entry.file)


def run_of(artifact: Artifact) -> Callable[[list[np.ndarray]], np.ndarray]:
    loaded = program.load(artifact, 1)
    assert loaded.runner == "openvino"
    return lambda arrays: loaded.run(arrays)[0]


FOR_CONVOLUTIONS = ("bf16", "fp16", "static_int8")
"""Schemes that apply to all layers of the model: two convolutions and two linear layers."""


@pytest.mark.parametrize(
    ("scheme", "difference"),
    [
        (None, 1e-5),
        ("bf16", 0.02),
        ("fp16", 0.02),
        ("static_int8", 0.1),
        ("dynamic_int8", 0.05),
        ("weight_only_int8", 0.02),
        ("weight_only_int4", 0.2),
    ],
)
def test_openvino_program_computes_model(
    bench: Bench, assemble: Assemble, scheme: str | None, difference: float
) -> None:
    initial = bench()
    work = quantized(initial.work, scheme) if scheme else initial.work
    built = assemble(initial, "openvino", work=work, batches=(1, 3))
    run = run_of(built.artifact)
    assert reference.check(run, built.expected) < difference  # another batch size: dynamic
    assert reference.check(run, built.expected, 3) < difference  # static shapes
    (entry,) = built.artifact.manifest.programs
    assert entry.quantized_operators == (4 if scheme in FOR_CONVOLUTIONS else 2 if scheme else 0)
    bits = Counter(
        op.get_element_type().get_type_name()
        for op in graph_of(built.artifact).get_ops()
        if op.get_type_name() == "Constant" and len(op.get_output_shape(0)) > 1
    )
    narrow = {
        "static_int8": "i8",
        "dynamic_int8": "i8",
        "weight_only_int8": "i8",
        "weight_only_int4": "u4",
        "bf16": "f16",
        "fp16": "f16",
    }
    if scheme:
        assert bits[narrow[scheme]] >= 2
    else:
        assert not bits.keys() & {"i8", "u8", "i4", "u4", "f16"}


class Branching(torch.nn.Module):
    """Convolutions with and without a following batch normalization, and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = torch.nn.Conv2d(1, 8, 3, padding=1)
        self.normed = torch.nn.Conv2d(8, 8, 3, padding=1)
        self.norm = torch.nn.BatchNorm2d(8)
        self.depthwise = torch.nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.head = torch.nn.Linear(8, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.plain(images))
        x = torch.relu(self.norm(self.normed(x)) + self.depthwise(x))
        logits: torch.Tensor = self.head(x.mean((2, 3)))
        return logits


def unquantized(graph: Any) -> list[str]:
    """Return the types of the operators with float weights."""
    types = []
    for op in graph.get_ops():
        if op.get_type_name() not in ("Convolution", "GroupConvolution", "MatMul"):
            continue
        weights = op.input_value(1).get_node()
        while weights.get_type_name() != "Constant":
            weights = weights.input_value(0).get_node()
        if weights.get_element_type().get_type_name() not in ("i8", "u8"):
            types.append(op.get_type_name())
    return types


@pytest.mark.parametrize(
    ("kept_layers", "float_operators"),
    [
        ((), []),
        (("normed",), ["Convolution"]),
        (("depthwise", "head"), ["GroupConvolution", "MatMul"]),
    ],
)
def test_layers_with_kept_precision_are_not_quantized(
    bench: Bench, assemble: Assemble, kept_layers: tuple[str, ...], float_operators: list[str]
) -> None:
    initial = bench()
    torch.manual_seed(0)
    work = Work.of(Branching().eval(), initial.work.inputs)
    built = assemble(initial, "openvino", work=quantized(work, "static_int8", kept_layers))
    assert sorted(unquantized(graph_of(built.artifact))) == sorted(float_operators)
    (entry,) = built.artifact.manifest.programs
    assert entry.quantized_operators == 4 - len(kept_layers)


class Unweighted(torch.nn.Module):
    """Square of the input: there are no weights to quantize."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        rows = images.flatten(1)[:, :10]
        logits: torch.Tensor = rows * rows
        return logits


@pytest.mark.parametrize("scheme", ["static_int8", "dynamic_int8", "weight_only_int4", "bf16"])
def test_program_without_quantized_operators_is_rejected(
    bench: Bench, assemble: Assemble, scheme: str
) -> None:
    initial = bench()
    work = quantized(Work.of(Unweighted().eval(), initial.work.inputs), scheme)
    with pytest.raises(CompressionError, match=f"scheme {scheme} changes none of the operators"):
        assemble(initial, "openvino", work=work)


def test_operator_that_contradicts_shapes_is_named(bench: Bench, assemble: Assemble) -> None:
    """OpenVINO has no pooling whose kernel is larger than its input, as in EfficientNet's head."""
    initial = bench()
    pooled = torch.nn.Sequential(
        torch.nn.Conv2d(1, 10, 3), torch.nn.AvgPool2d(64, ceil_mode=True), torch.nn.Flatten()
    )
    with pytest.raises(CompressionError, match=r"the model: Kernel after [^\n]* axis 0; build"):
        assemble(initial, "openvino", work=Work.of(pooled.eval(), initial.work.inputs))


def test_unknown_kept_layer_is_rejected(bench: Bench, assemble: Assemble) -> None:
    initial = bench()
    work = quantized(initial.work, "static_int8", ("gone",))
    with pytest.raises(CompressionError, match="layer 'gone' must keep its precision"):
        assemble(initial, "openvino", work=work)


@pytest.mark.parametrize("calibration", ["minmax", "histogram", "percentile"])
def test_every_calibration_builds_accurate_program(
    bench: Bench, assemble: Assemble, calibration: str
) -> None:
    initial = bench()
    work = quantized(initial.work, "static_int8", calibration=calibration, calibration_samples=40)
    built = assemble(initial, "openvino", work=work)
    assert reference.check(run_of(built.artifact), built.expected) < 0.15


def test_model_trained_with_rounding_is_recalibrated(bench: Bench, assemble: Assemble) -> None:
    initial = bench()
    training = {"epochs": 1, "updates": 5}
    work = quantized(initial.work, "static_int8", training=training, calibration_samples=40)
    built = assemble(initial, "openvino", work=work)
    assert reference.check(run_of(built.artifact), built.expected) < 0.15


@pytest.mark.parametrize(
    ("scheme", "target", "message"),
    [("float8", "cpu-x86", "no scheme float8"), ("bf16", "cuda-sm90", "not for cuda-sm90")],
)
def test_openvino_rejects_unsupported_scheme_and_target(
    bench: Bench, scheme: str, target: str, message: str
) -> None:
    initial = bench()
    assert message in str(building.refusal(scheme, target, initial.recipe))


@pytest.mark.parametrize("kind", ["var", "std", "var_mean", "std_mean"])
@pytest.mark.parametrize("options", [{}, {"correction": 0}, {"dim": 1}])
def test_variance_has_pytorchs_correction(kind: str, options: dict[str, Any]) -> None:
    class Variance(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            result = getattr(torch, kind)(x, keepdim=True, **({"dim": (0, 1)} | options))
            return x / (result[0] if isinstance(result, tuple) else result)

    spec = TensorSpec(name="x", datatype="FP32", shape=(-1, 4))
    graph, _ = building._convert(Variance(), (spec,), (), None)
    x = torch.randn(3, 4)
    compiled = openvino.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    torch.testing.assert_close(torch.from_numpy(compiled([x.numpy()])[0]), Variance()(x))


class TwoInputs(torch.nn.Module):
    """Model that ignores its first input; its inputs are not in alphabetical order."""

    def forward(self, zulu: torch.Tensor, alpha: torch.Tensor, mike: torch.Tensor) -> torch.Tensor:
        return alpha * 2 - mike.float()


def test_inputs_are_matched_by_name_and_unused_are_ignored(tmp_path: Path, bench: Bench) -> None:
    specs = tuple(
        TensorSpec(name=name, datatype=datatype, shape=(-1, 3))
        for name, datatype in (("first", "FP32"), ("second", "FP32"), ("third", "INT64"))
    )
    (tmp_path / "w" / "programs").mkdir(parents=True)
    initial = bench()
    work = Work.of(TwoInputs(), specs)
    files = ProgramFiles(tmp_path / "w", "programs", "cpu-x86")
    entry = building.build(work, "cpu-x86", files, initial.job)
    manifest = Manifest(
        name="m",
        recipe={},
        recipe_key="0" * 64,
        inputs=specs,
        outputs=(),
        image=None,
        text=None,
        labels=(),
        files={},
        programs=(entry,),
        quantized_operators=0,
    )
    loaded = program.load(write(tmp_path / "w", manifest), 1)
    arrays = [np.full((2, 3), n, spec.dtype) for n, spec in zip((5, 7, 1), specs, strict=True)]
    np.testing.assert_array_equal(loaded.run(arrays)[0], np.full((2, 3), 13, np.float32))


def test_results_survive_next_run_and_inputs_are_released(bench: Bench, assemble: Assemble) -> None:
    initial = bench()
    loaded = program.load(assemble(initial, "openvino", batches=(1, 8)).artifact, 1)
    images = initial.test.batch(range(16))[0][0]
    for batch in (8, 5):
        first = loaded.run([images[:batch].copy()])[0]
        expected = first.copy()
        loaded.run([images[8 : 8 + batch].copy()])
        np.testing.assert_array_equal(first, expected)
        np.testing.assert_array_equal(loaded.run([images[:batch]])[0], expected)


@pytest.mark.parametrize("suffix", [".xml", ".bin"])
def test_changed_program_files_are_not_loaded(
    bench: Bench, assemble: Assemble, suffix: str
) -> None:
    artifact = assemble(bench(), "openvino").artifact
    with (artifact.path / "programs" / f"cpu-x86{suffix}").open("ab") as file:
        file.write(b" ")
    with pytest.raises(ArtifactCorruptError, match=f"cpu-x86\\{suffix}"):
        program.load(artifact, 1)


def test_broken_file_with_valid_hash_raises_program_error(bench: Bench, assemble: Assemble) -> None:
    artifact = assemble(bench(), "openvino").artifact
    (artifact.path / "programs" / "cpu-x86.xml").write_text("<net/>")
    with pytest.raises(ProgramError, match="OpenVINO cannot load it"):
        program.load(write(artifact.path, artifact.manifest), 1)


def test_wrong_input_dtype_is_rejected(bench: Bench, assemble: Assemble) -> None:
    loaded = program.load(assemble(bench(), "openvino").artifact, 1)
    with pytest.raises(ProgramError, match=r"takes input float32\[-1, 1, 16, 16\].*got float64"):
        loaded.run([np.zeros((2, 1, 16, 16))])


def test_openvino_is_skipped_by_default_and_required_by_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert requirements.kinds_of(ProgramBuild()) == ("aoti", "openvino")
    assert requirements.kinds_of(ProgramBuild(target="cuda-sm90")) == ("aoti",)
    monkeypatch.setattr(node, "installed_version", lambda name: None)
    assert requirements.kinds_of(ProgramBuild()) == ("aoti",)
    with pytest.raises(CompressionError, match=r"need openvino and nncf.*headrace\[openvino\]"):
        requirements.check([ProgramBuild(kinds=("openvino",))])

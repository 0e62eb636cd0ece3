"""Distillation from every kind of teacher, with every loss; rejected teachers."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from cluster.artifact.artifact import Artifact
from cluster.artifact.manifest import Manifest
from cluster.compression.training import teacher as teachers
from cluster.compression.training.distill import distill
from cluster.compression.training.features import FeatureMatch, captured
from cluster.compression.training.teacher import ProgramTeacher
from cluster.compression.training.train import train
from cluster.config.steps import Distill, Train
from cluster.errors import CompressionError, SourceError
from cluster.tensors import TensorSpec

Bench = Callable[..., Any]
IMAGE = {"size": 16, "channels": 1, "mean": [0.5], "std": [0.5]}
DATA = {"source": "digits", "limit": 300}


def step(**fields: Any) -> Distill:
    return Distill.model_validate(
        {"kind": "distill", "epochs": 2, "learning_rate": 0.003, "optimizer": "adamw"} | fields
    )


def answers(module: torch.nn.Module, samples: Any) -> torch.Tensor:
    arrays, _ = samples.batch(range(len(samples)))
    with torch.inference_mode():
        return module(*map(torch.from_numpy, arrays)).softmax(1)


def trained(bench: Bench, epochs: int = 3) -> Any:
    initial = bench(data=DATA)
    train(initial.work, Train(kind="train", epochs=epochs), initial.job)
    return initial


LOSSES = [
    [{"name": "kl", "temperature": 2.0}],
    [{"name": "mse"}],
    [{"name": "kl", "weight": 0.9}, {"name": "cross_entropy", "weight": 0.1}],
    [{"name": "kl"}, {"name": "feature_mse", "student_layer": "7", "teacher_layer": "7"}],
]


@pytest.mark.parametrize(
    ("losses", "precision"),
    [
        (LOSSES[3], "float32"),
        *(pytest.param(losses, "float32", marks=pytest.mark.slow) for losses in LOSSES[:3]),
        pytest.param(LOSSES[3], "bf16", marks=pytest.mark.slow),
    ],
)
def test_distillation_moves_damaged_student_to_baseline(
    bench: Bench, losses: list, precision: str
) -> None:
    initial = trained(bench)
    wanted = answers(initial.work.module, initial.test)
    original = pickle.dumps(initial.work.module)
    with torch.no_grad():
        initial.work.module[8].weight.normal_(std=0.3)
    job = replace(initial.job, baseline=lambda: pickle.loads(original))
    before = (answers(initial.work.module, initial.test) - wanted).abs().mean()
    student = distill(initial.work, step(losses=losses, epochs=4, precision=precision), job)
    after = (answers(student.module, initial.test) - wanted).abs().mean()
    assert after < 0.75 * before
    assert not student.module.training
    # Nothing of the projections stays.
    assert student.weights().keys() == pickle.loads(original).state_dict().keys()


def test_model_with_weights_teaches_with_projected_layers(bench: Bench, tmp_path: Path) -> None:
    large = trained(bench)
    save_file(large.work.weights(), tmp_path / "large.safetensors")
    initial = bench(data=DATA, model="linear")
    layers = {"name": "feature_mse", "student_layer": "1", "teacher_layer": "7", "weight": 0.1}
    chosen = step(
        teacher={
            "model": {
                "source": "python:headrace_tiny:convolutional",
                "weights": str(tmp_path / "large.safetensors"),
            }
        },
        losses=[{"name": "kl"}, layers],
    )
    wanted = answers(large.work.module, initial.test)
    before = (answers(initial.work.module, initial.test) - wanted).abs().mean()
    student = distill(initial.work, chosen, initial.job)
    assert (answers(student.module, initial.test) - wanted).abs().mean() < before
    assert initial.lines[-1].startswith("distill  ")
    first, second = initial.job.details["losses"]
    assert second < first


class _Program:
    """Program that answers like a module, in numpy."""

    def __init__(self, module: torch.nn.Module) -> None:
        self._module = module

    def run(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        with torch.inference_mode():
            return [self._module(*map(torch.from_numpy, inputs)).numpy()]


def manifest(**fields: Any) -> Manifest:
    defaults = {
        "name": "large",
        "recipe": {},
        "recipe_key": "0" * 64,
        "inputs": (TensorSpec(name="input", datatype="FP32", shape=(-1, 1, 16, 16)),),
        "outputs": (TensorSpec(name="logits", datatype="FP32", shape=(-1, 10)),),
        "image": IMAGE,
        "text": None,
        "labels": tuple("0123456789"),
        "files": {},
        "programs": (),
        "quantized_operators": 0,
    }
    return Manifest.model_validate(defaults | fields)


class _Store:
    """Store with one artifact."""

    def __init__(self, **fields: Any) -> None:
        self._artifact = Artifact(Path("/nowhere"), manifest(**fields), None)

    def open(self, ref: str) -> Artifact:
        return self._artifact


def test_artifact_teaches_with_its_program(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    large = trained(bench)
    offered: list[list[str]] = []

    def load(_artifact: Artifact, _threads: int, targets: list[str]) -> _Program:
        offered.append(targets)
        return _Program(large.work.module)

    monkeypatch.setattr(teachers, "load", load)
    monkeypatch.setattr(teachers, "targets", lambda: ["cuda-sm90", "cpu-x86"])
    initial = bench(data=DATA, model="linear")
    job = replace(initial.job, store=_Store())
    wanted = answers(large.work.module, initial.test)
    before = (answers(initial.work.module, initial.test) - wanted).abs().mean()
    chosen = step(teacher={"artifact": "large"}, losses=[{"name": "kl"}])
    student = distill(initial.work, chosen, job)
    assert (answers(student.module, initial.test) - wanted).abs().mean() < before
    assert offered == [["cpu-x86"]]  # the training is on the CPU: no GPU is taken for its teacher
    layers = {"name": "feature_mse", "student_layer": "1", "teacher_layer": "7"}
    with pytest.raises(CompressionError, match=r"losses\[0\]: feature_mse needs.*has none"):
        distill(initial.work, step(teacher={"artifact": "large"}, losses=[layers]), job)


def test_pickled_teacher_excludes_its_program() -> None:
    here = ProgramTeacher(_Store(), "large")
    here._program = lambda: None  # type: ignore[assignment]
    assert pickle.loads(pickle.dumps(here))._program is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"outputs": (TensorSpec(name="logits", datatype="FP32", shape=(-1, 100)),)},
            r"artifact large has 100 classes, the student 10; choose a teacher",
        ),
        (
            {"inputs": (TensorSpec(name="input", datatype="FP32", shape=(-1, 3, 32, 32)),)},
            r"takes FP32\[-1, 3, 32, 32\], the student FP32\[-1, 1, 16, 16\]",
        ),
        ({"image": IMAGE | {"mean": [0.1]}}, r"mean and std \[0.1\] and \[0.5\], rgb, the student"),
        ({"labels": tuple("1023456789")}, r"class 0 is '1' for the teacher .* but '0' in the data"),
    ],
)
def test_unsuitable_teacher_is_rejected_before_training(
    bench: Bench, fields: dict, message: str
) -> None:
    initial = bench(data=DATA, model="linear")
    job = replace(initial.job, store=_Store(**fields))
    with pytest.raises(CompressionError, match=message):
        distill(initial.work, step(teacher={"artifact": "large"}), job)
    assert initial.lines == []


def test_teacher_with_other_classes_or_no_weights_is_rejected(bench: Bench) -> None:
    initial = bench(data=DATA, model="linear")
    five = {"source": "python:headrace_tiny:linear", "num_classes": 5}
    with pytest.raises(SourceError, match="num_classes=5, but the data has 10 labels"):
        distill(initial.work, step(teacher={"model": five}), initial.job)
    random = {"source": "torchvision:resnet18", "image": IMAGE}
    with pytest.raises(CompressionError, match=r"resnet18 has random weights.*teacher\.model\.we"):
        distill(initial.work, step(teacher={"model": random}), initial.job)


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        ("flat", "1", r"losses\[0\]\.student_layer: no layer is called 'flat'; near it: 0, 1"),
        ("1", "9", r"losses\[0\]\.teacher_layer: no layer is called '9'"),
        ("*", "1", r"losses\[0\]\.student_layer: '\*' matches 2 layers \(0, 1\); name one"),
    ],
)
def test_unknown_layers_are_named(bench: Bench, student: str, teacher: str, message: str) -> None:
    initial = bench(data=DATA, model="linear")
    layers = {"name": "feature_mse", "student_layer": student, "teacher_layer": teacher}
    with pytest.raises(CompressionError, match=message):
        distill(initial.work, step(losses=[layers]), initial.job)


@pytest.mark.parametrize(
    ("student", "teacher", "projection"),
    [
        ((2, 4, 8, 8), (2, 6, 4, 4), torch.nn.Conv2d),
        ((2, 4, 4, 4), (2, 4, 8, 8), torch.nn.Identity),
        ((2, 10, 32), (2, 12, 64), torch.nn.Linear),
        ((2, 16), (2, 16), torch.nn.Identity),
    ],
)
def test_features_of_different_sizes_are_projected(
    student: tuple, teacher: tuple, projection: type
) -> None:
    here, there = torch.rand(student), torch.rand(teacher)
    match = FeatureMatch(here, there, "a and b")
    assert isinstance(match.project, projection)
    optimizer = torch.optim.Adam([*match.parameters(), here.requires_grad_()], lr=0.05)
    first = match(here, there).item()
    for _ in range(60):
        optimizer.zero_grad()
        match(here, there).backward()
        optimizer.step()
    assert match(here, there).item() < first / 4


def test_features_of_equal_size_are_compared_directly() -> None:
    here, there = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4)
    expected = ((here - there) ** 2).mean()
    torch.testing.assert_close(FeatureMatch(here, there, "a and b")(here, there), expected)
    with pytest.raises(CompressionError, match=r"of a and b: .* \[2, 3, 4, 4\] and \[2, 3\]; exp"):
        FeatureMatch(here, torch.rand(2, 3), "a and b")


def test_captured_feature_survives_later_in_place_operation() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU(inplace=True))
    inputs = torch.randn(8, 4)
    with captured(module, ["0"]) as features:
        module(inputs)
    torch.testing.assert_close(features["0"], module[0](inputs))
    assert (features["0"] < 0).any()
    assert not module[0]._forward_hooks

"""Recipes whose metrics, losses or labels do not fit the meaning of the output, and two that do."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.metrics
import torch

from cluster.artifact.local import LocalStore
from cluster.compression import job, meaning
from cluster.compression.evaluation.validation import Validation
from cluster.compression.training.train import train
from cluster.compression.work import Job, Work
from cluster.config.base import parse
from cluster.config.recipe import Recipe
from cluster.config.steps import Train
from cluster.data import PreparedSamples, load_data
from cluster.errors import ConfigError, SourceError
from cluster.program import program

MODULE = """
import numpy as np
import torch

def model(num_classes=2):
    torch.manual_seed(0)
    layers = torch.nn.Linear(6, 32), torch.nn.ReLU(), torch.nn.Linear(32, num_classes)
    return torch.nn.Sequential(*layers)

def _inputs():
    return np.random.default_rng(0).normal(size=(600, 6)).astype(np.float32)

def tags():
    inputs = _inputs()
    return inputs, inputs[:, :3] + 0.5 * inputs[:, 3:] > 0.3, ["toxic", "insult", "threat"]

def prices():
    inputs = _inputs()
    numbers = np.stack([2 + 0.5 * inputs[:, 0], inputs[:, 1] - inputs[:, 2].clip(0)], 1)
    return inputs, numbers, ["price", "area"]

def constant():
    inputs = _inputs()
    return inputs, np.stack([inputs[:, 0], np.ones(600)], 1), ["price", "area"]

def classes():
    inputs = _inputs()
    return inputs, (inputs[:, 0] > 0).astype(int)
"""


@pytest.fixture(scope="module", autouse=True)
def _module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("meaning")
    (folder / "headrace_meaning.py").write_text(MODULE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setenv("PYTHONPATH", str(folder), prepend=":")  # the evaluation is a process
        importlib.invalidate_caches()
        yield
    sys.modules.pop("headrace_meaning", None)


def recipe(data: str, activation: str | None, **fields: Any) -> Recipe:
    raw = {
        "name": "m",
        "model": {
            "source": "python:headrace_meaning:model",
            "tensor": {"shape": [6]},
            "activation": activation,
        },
        "data": {"source": f"python:headrace_meaning:{data}"},
        "steps": [{"kind": "train", "epochs": 30, "loss": "mse"}],
        "evaluation": {"repeats": 5, "batches": [1]},
        "programs": [{"kinds": ["exported"]}],
        "gate": {"min_speedup": None, "max_size_share": None},
    }
    return parse(raw | fields, Recipe, "recipe")


def metrics(*names: str) -> dict[str, Any]:
    return {"evaluation": {"metrics": list(names), "repeats": 5, "batches": [1]}}


def steps(**step: Any) -> dict[str, Any]:
    return {"steps": [step]}


PRUNE = {"kind": "prune", "method": "magnitude", "ratio": 0.5}


@pytest.mark.parametrize(
    ("data", "activation", "fields", "message"),
    [
        (
            "tags",
            "sigmoid",
            {},
            "evaluation.metrics: accuracy compares one of several labels, but the model returns "
            r"independent labels \(model.activation: sigmoid\); use f1, or set model.activation",
        ),
        ("prices", "none", {}, "accuracy compares .* returns numbers .*; use r2 or mean_absolute"),
        ("classes", None, metrics("f1"), r"f1 compares independent labels, .*use accuracy, or set"),
        (
            "classes",
            None,
            metrics("accuracy", "r2"),
            "r2 compares numbers, but the model returns one",
        ),
        (
            "prices",
            "none",
            {**metrics("r2"), **steps(kind="train")},
            r"steps\[0\].loss: cross_entropy compares labels, but .* numbers .*; set it to mse",
        ),
        (
            "prices",
            "none",
            {**metrics("r2"), **steps(**PRUNE, recovery={})},
            r"steps\[0\].recovery.loss: cross_entropy .* set it to mse",
        ),
        (
            "prices",
            "none",
            {**metrics("r2"), **steps(kind="distill")},
            r"steps\[0\].losses\[0\].name: kl compares labels.* set it to mse",
        ),
        (
            "tags",
            None,
            {},
            r"tags has independent labels .* as labels, but the model returns one of several "
            r"labels .*, which learns classes .*; change .*, or model.activation to sigmoid",
        ),
        ("classes", "sigmoid", metrics("f1"), "classes has classes .*, which learns independent"),
        ("tags", "none", metrics("r2"), "tags has independent labels .*, which learns numbers"),
        ("prices", "sigmoid", metrics("f1"), "prices has numbers .*, which learns independent"),
        (
            "constant",
            "none",
            metrics("r2"),
            "r2 is relative to the labels' variance, which is 0 for 'area' in the 120 held-out",
        ),
    ],
)
def test_recipes_that_do_not_fit_are_refused(
    tmp_path: Path, data: str, activation: str | None, fields: dict[str, Any], message: str
) -> None:
    lines: list[str] = []
    with pytest.raises(SourceError, match=message) as refusal:
        job.run(recipe(data, activation, **fields), LocalStore(tmp_path), lines.append)
    assert "Nothing was built" in str(refusal.value)
    assert not any("train " in line for line in lines)
    assert not list(tmp_path.rglob("manifest.json"))


def test_error_in_units_cannot_decide() -> None:
    with pytest.raises(ConfigError, match=r"mean_squared_error comes first, .*; put r2 first"):
        recipe("prices", "none", **metrics("mean_squared_error", "r2"))


TAGS = {**metrics("f1"), **steps(kind="train", epochs=12, learning_rate=0.3)}
PRICES = {
    **metrics("r2", "mean_absolute_error"),
    **steps(kind="train", epochs=25, loss="mse", optimizer="adamw", learning_rate=0.03),
}


def sklearn_score(activation: str, labels: np.ndarray, outputs: np.ndarray) -> float:
    if activation == "none":
        return float(sklearn.metrics.r2_score(labels, outputs))
    return float(sklearn.metrics.f1_score(labels, outputs > 0, average="samples", zero_division=1))


@pytest.mark.parametrize(
    ("data", "activation", "fields", "least"),
    [("tags", "sigmoid", TAGS, 0.85), ("prices", "none", PRICES, 0.8)],
)
def test_training_learns_labels_of_every_kind(
    tmp_path: Path, data: str, activation: str, fields: dict[str, Any], least: float
) -> None:
    built = recipe(data, activation, **fields)
    loaded = Job.load(
        built, LocalStore(tmp_path), workspace=tmp_path, checkpoints=tmp_path, out=lambda line: None
    )
    meaning.check(built, loaded.data, loaded.model)
    step = built.steps[0]
    assert isinstance(step, Train)
    module = train(Work.of(loaded.model.module, loaded.model.inputs), step, loaded).module
    score = Validation(built.evaluation.metrics[0], loaded.validation, loaded.baseline).score(
        module
    )
    (inputs,), labels = loaded.validation.batch(range(len(loaded.validation)))
    with torch.inference_mode():
        outputs = module(torch.from_numpy(inputs)).numpy()
    assert score.value == pytest.approx(sklearn_score(activation, labels, outputs), abs=1e-5)
    assert score.value > least


@pytest.mark.parametrize(
    ("data", "activation", "fields", "measure"),
    [
        pytest.param("tags", "sigmoid", TAGS, "labels", marks=pytest.mark.slow),
        ("prices", "none", PRICES, "numbers"),
    ],
)
def test_artifact_has_the_scores_of_its_program(
    tmp_path: Path, data: str, activation: str, fields: dict[str, Any], measure: str
) -> None:
    built = recipe(data, activation, **fields)
    artifact = job.run(built, LocalStore(tmp_path), lambda line: None).artifact
    assert artifact is not None
    manifest = artifact.manifest
    loaded = load_data(built.data, built.seed)
    assert (manifest.activation, manifest.labels) == (activation, loaded.labels)
    (inputs,), labels = PreparedSamples(loaded.test, manifest.inputs, None).batch(
        range(len(loaded.test))
    )
    outputs = program.load(artifact, 1).run([inputs])[0]
    (measured,) = manifest.measured.values()
    expected = sklearn_score(activation, labels, outputs)
    assert measured.accuracy == pytest.approx(expected, abs=1e-5)
    assert measured.agreement is not None
    assert measured.agreement.measure == measure
    if activation == "none":
        error = sklearn.metrics.mean_absolute_error(labels, outputs)
        assert measured.others["mean_absolute_error"].value == pytest.approx(error, rel=1e-4)

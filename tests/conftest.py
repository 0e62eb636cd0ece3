"""Fixtures of several rooms: real artifacts, built once, and small invented ones.

tiny_recipe ─→ golden (cache) ─→ *_artifact_store ─→ *_artifact
finished ────→ a directory like a finished build, with invented bytes
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
from support.golden import copy_into
from support.marks import BUILD_FIXTURES, CLUSTER_FIXTURES, LONG_S

from cluster.artifact.artifact import MANIFEST, Artifact, describe
from cluster.artifact.local import LocalStore
from cluster.artifact.manifest import Manifest
from cluster.config.base import parse
from cluster.config.recipe import Recipe
from cluster.tensors import TensorSpec

# An example takes as long as the machine needs: a slow one finds no fault.
hypothesis.settings.register_profile("headrace", deadline=None)
hypothesis.settings.load_profile("headrace")

TinyRecipe = Callable[..., Recipe]
Finished = Callable[..., bytes]
Golden = Callable[..., None]

TINY_MODULE = '''
"""Models that train and compile in seconds."""
import torch
from torch import nn


class Marked(nn.Sequential):
    """Refuses weights without the version mark of a state dict, as MNASNet does."""

    _version = 2

    def _load_from_state_dict(self, state, prefix, metadata, *rest):
        if metadata.get("version") != 2:
            raise ValueError("no version mark")
        super()._load_from_state_dict(state, prefix, metadata, *rest)


def convolutional(num_classes):
    return Marked(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(),
        nn.Linear(16 * 8 * 8, 64), nn.ReLU(), nn.Linear(64, num_classes),
    )


def linear(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(16 * 16, num_classes))


class LookedUp(nn.Module):
    """Fails on an image with a pixel of 4 or more: there is no such row in its table."""

    def __init__(self, num_classes):
        super().__init__()
        self.first = nn.Sequential(nn.Flatten(), nn.Linear(16 * 16, 64), nn.ReLU())
        self.table = nn.Embedding(4, 64)
        self.last = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, num_classes))

    def forward(self, image):
        brightest = image.flatten(1).amax(1).clamp(min=0).long()
        return self.last(self.first(image) + self.table(brightest))


looked_up = LookedUp
'''


@pytest.fixture(scope="session")
def tiny_recipe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinyRecipe]:
    """Yield a function that makes recipes: train a factory of ``headrace_tiny`` for one epoch.

    ``recipe(name, scheme, model="convolutional", **fields)``; the data are the digits; scheme
    None quantizes nothing.
    """
    folder = tmp_path_factory.mktemp("tiny-models")
    (folder / "headrace_tiny.py").write_text(TINY_MODULE)

    def recipe(
        name: str, scheme: str | None, model: str = "convolutional", **fields: object
    ) -> Recipe:
        quantize = [{"kind": "quantize", "scheme": scheme}] if scheme else []
        raw = {
            "name": name,
            "model": {
                "source": f"python:headrace_tiny:{model}",
                "image": {"size": 16, "channels": 1, "mean": [0.5], "std": [0.5]},
            },
            "steps": [{"kind": "train", "epochs": 1}, *quantize],
            "evaluation": {"repeats": 10, "batches": [1]},
            "programs": [{"kinds": ["aoti"]}],
            # So small a model is not expected to get faster, nor smaller with its code.
            "gate": {"max_accuracy_drop": 0.05, "min_speedup": None, "max_size_share": None},
        }
        return parse(raw | fields, Recipe, "recipe")

    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)  # the evaluation is a process
        yield recipe
    sys.modules.pop("headrace_tiny", None)


@pytest.fixture(scope="session")
def golden(tiny_recipe: TinyRecipe) -> Golden:
    """Return ``golden(store, name, scheme, **fields)``: copies a tiny recipe's cached artifact."""

    def put(store: Path, name: str, scheme: str | None, **fields: object) -> None:
        copy_into(store, tiny_recipe(name, scheme, **fields), TINY_MODULE)

    return put


@pytest.fixture(scope="session")
def int8_artifact_store(tmp_path_factory: pytest.TempPathFactory, golden: Golden) -> Path:
    """Return a store with the artifact ``tiny-int8``: a small image classifier in static int8."""
    root = tmp_path_factory.mktemp("store")
    golden(root, "tiny-int8", "static_int8", programs=[{}])
    return root


@pytest.fixture(scope="session")
def bf16_artifact_store(int8_artifact_store: Path, golden: Golden) -> Path:
    """Return the same store with ``tiny-bf16`` too: the model in bfloat16, by AOTInductor."""
    golden(int8_artifact_store, "tiny-bf16", "bf16")
    return int8_artifact_store


@pytest.fixture(scope="session")
def cut_artifact_store(tmp_path_factory: pytest.TempPathFactory, golden: Golden) -> Path:
    """Return a store with ``tiny-cut``: the classifier in float32, whole and in two stages."""
    root = tmp_path_factory.mktemp("cut-store")
    golden(root, "tiny-cut", None, programs=[{"kinds": ["openvino"]}], parallel=[{"pipeline": 2}])
    return root


@pytest.fixture(scope="session")
def finished() -> Finished:
    """Return a function that fills a directory as a job does; it returns the manifest's bytes.

    ``finished(directory, name="m", key="0" * 64, files={...})``; the contents are invented.
    """

    def fill(
        directory: Path,
        name: str = "m",
        key: str = "0" * 64,
        files: dict[str, bytes] | None = None,
    ) -> bytes:
        directory.mkdir(parents=True, exist_ok=True)
        content = {"weights.safetensors": b"weights", "programs/cpu-x86.pt2": b"program"}
        for path, data in (files or content).items():
            (directory / path).parent.mkdir(parents=True, exist_ok=True)
            (directory / path).write_bytes(data)
        manifest = Manifest(
            name=name,
            recipe={},
            recipe_key=key,
            inputs=(TensorSpec(name="input", datatype="FP32", shape=(-1, 4)),),
            outputs=(TensorSpec(name="logits", datatype="FP32", shape=(-1, 2)),),
            image=None,
            text=None,
            labels=("no", "yes"),
            files={path: describe(directory / path) for path in files or content},
            programs=(),
            quantized_operators=3,
        )
        (directory / MANIFEST).write_bytes(manifest.to_json())
        return manifest.to_json()

    return fill


@pytest.fixture
def int8_artifact(int8_artifact_store: Path) -> Artifact:
    return LocalStore(int8_artifact_store).open("tiny-int8")


@pytest.fixture
def bf16_artifact(bf16_artifact_store: Path) -> Artifact:
    return LocalStore(bf16_artifact_store).open("tiny-bf16")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that start a cluster, and give the long ones more time."""
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        if not fixtures.isdisjoint(CLUSTER_FIXTURES):
            item.add_marker("cluster")
        long = any(item.get_closest_marker(mark) for mark in ("cluster", "slow"))
        long = long or not fixtures.isdisjoint(BUILD_FIXTURES)
        if long and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(LONG_S))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the number of fault tests, and how many of them failed."""
    stats = terminalreporter.stats
    passed, failed = (
        sum("fault" in phase.keywords for phase in stats.get(outcome, ()) if phase.when == "call")
        for outcome in ("passed", "failed")
    )
    if passed + failed:
        terminalreporter.write_line(f"faults made: {passed + failed}, of which {failed} did harm")

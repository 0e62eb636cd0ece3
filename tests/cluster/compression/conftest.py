"""Job of a small recipe, for tests of its stages one by one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from support.golden import build

from cluster.artifact.local import LocalStore
from cluster.compression.training.train import train
from cluster.compression.work import Job, Work
from cluster.config.recipe import Recipe
from cluster.config.steps import Train
from cluster.data import PreparedSamples


@dataclass(frozen=True)
class Bench:
    """Freshly built model of a recipe, before its first step."""

    recipe: Recipe
    work: Work
    job: Job
    test: PreparedSamples
    lines: list[str]


@pytest.fixture
def bench(tiny_recipe: Callable[..., Recipe], tmp_path: Path) -> Callable[..., Bench]:
    """Return ``bench(scheme, model="convolutional", **fields)``; ``fields``: of the recipe."""
    return _bench(tiny_recipe, tmp_path)


@pytest.fixture(scope="session")
def trained_weights(
    tiny_recipe: Callable[..., Recipe], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, torch.Tensor]:
    """Return the state of ``bench()``'s model after four epochs, trained once."""
    bench = _bench(tiny_recipe, tmp_path_factory.mktemp("trained"))()
    train(bench.work, Train(kind="train", epochs=4), bench.job)
    return bench.work.module.state_dict()


def _bench(tiny_recipe: Callable[..., Recipe], tmp_path: Path) -> Callable[..., Bench]:
    def make(scheme: str | None = None, model: str = "convolutional", **fields: object) -> Bench:
        recipe = tiny_recipe("bench", scheme, model, **fields)
        lines: list[str] = []
        checkpoints = tmp_path / "kept"
        checkpoints.mkdir(exist_ok=True)
        job = Job.load(
            recipe,
            LocalStore(tmp_path / "store"),
            workspace=tmp_path,
            checkpoints=checkpoints,
            out=lines.append,
        )
        loaded = job.model
        return Bench(
            recipe=recipe,
            work=Work.of(loaded.module, loaded.inputs),
            job=job.with_baseline(copy.deepcopy(loaded.module)),
            test=PreparedSamples(job.data.test, loaded.inputs, loaded.preprocess),
            lines=lines,
        )

    return make


@pytest.fixture(scope="session")
def int8_artifact_store(
    tmp_path_factory: pytest.TempPathFactory, tiny_recipe: Callable[..., Recipe]
) -> Path:
    """Return the store of serving tests, but built from this source, because builds are tested."""
    root = tmp_path_factory.mktemp("built-store")
    build(tiny_recipe("tiny-int8", "static_int8", programs=[{}]), root)
    return root


@pytest.fixture(scope="session")
def bf16_artifact_store(int8_artifact_store: Path, tiny_recipe: Callable[..., Recipe]) -> Path:
    build(tiny_recipe("tiny-bf16", "bf16"), int8_artifact_store)
    return int8_artifact_store


@pytest.fixture(scope="session")
def cut_artifact_store(
    tmp_path_factory: pytest.TempPathFactory, tiny_recipe: Callable[..., Recipe]
) -> Path:
    root = tmp_path_factory.mktemp("built-cut-store")
    recipe = tiny_recipe(
        "tiny-cut", None, programs=[{"kinds": ["openvino"]}], parallel=[{"pipeline": 2}]
    )
    build(recipe, root)
    return root

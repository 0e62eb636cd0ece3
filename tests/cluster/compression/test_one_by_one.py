"""A model that scales by its batch, built and run one item at a time."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

from cluster.artifact.artifact import WEIGHTS
from cluster.artifact.local import LocalStore
from cluster.compression import job
from cluster.config.base import parse
from cluster.config.recipe import Recipe
from cluster.errors import ConfigError, SourceError
from cluster.program import program

MODULE = """
import numpy as np
from torch import nn

def samples():
    random = np.random.default_rng(0)
    labels = np.arange(120) % 10
    images = random.standard_normal((120, 1, 16, 16)) + labels[:, None, None, None]
    return images.astype(np.float32), labels

class Scaled(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.conv, self.last = nn.Conv2d(1, 16, 3, 2, 1), nn.Linear(16, num_classes)

    def forward(self, x):
        x = (x - x.mean()) / x.std()
        return self.last(self.conv(x).relu().amax((2, 3)))
"""


@pytest.fixture
def scaled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_recipe: Callable[..., Recipe]
) -> Iterator[Callable[..., Recipe]]:
    """Return ``scaled(scheme, **model)``: a recipe whose model scales by its whole batch."""
    (tmp_path / "headrace_scaled.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)

    def recipe(scheme: str | None, *, parallel: Any = (), **model: Any) -> Recipe:
        tensor = {"name": "input", "datatype": "FP32", "shape": [1, 16, 16]}
        source = {"source": "python:headrace_scaled:Scaled", "tensor": tensor}
        gate = {"max_accuracy_drop": None, "min_speedup": None, "max_size_share": None}
        raw = tiny_recipe("scaled", scheme).model_dump(mode="json") | {
            "model": source | model,
            "data": {"source": "python:headrace_scaled:samples"},
            "programs": [{"kinds": ["exported", "openvino"]}],
            "parallel": parallel,
            "gate": gate | {"min_agreement": None},
        }
        return parse(raw, Recipe, "recipe")

    yield recipe
    sys.modules.pop("headrace_scaled", None)


def alone(weights: dict[str, torch.Tensor], images: np.ndarray) -> np.ndarray:
    """Return the model's answers to the images, each scaled by itself."""
    x = torch.from_numpy(images)
    x = (x - x.mean((1, 2, 3), keepdim=True)) / x.std((1, 2, 3), keepdim=True)
    x = functional.conv2d(x, weights["conv.weight"], weights["conv.bias"], 2, 1).relu()
    x = functional.linear(x.amax((2, 3)), weights["last.weight"], weights["last.bias"])
    return x.numpy()


def test_programs_run_one_item_at_a_time(scaled: Callable[..., Recipe], tmp_path: Path) -> None:
    lines: list[str] = []
    store = LocalStore(tmp_path / "store")
    artifact = job.run(scaled(None, max_batch_size=1), store, lines.append).artifact
    assert artifact is not None, lines
    assert artifact.manifest.max_batch_size == 1
    weights = load_file(artifact.file(WEIGHTS))
    images = np.random.default_rng(0).standard_normal((5, 1, 16, 16), np.float32)
    images[1] *= 50
    assert {entry.kind for entry in artifact.manifest.programs} == {"exported", "openvino"}
    for entry in artifact.manifest.programs:
        assert entry.static_files == ()
        (answers,) = program.load_entry(artifact, entry, 1).run([images])
        np.testing.assert_allclose(answers, alone(weights, images), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_quantized_programs_are_calibrated_alone(
    scaled: Callable[..., Recipe], tmp_path: Path
) -> None:
    lines: list[str] = []
    store = LocalStore(tmp_path / "store")
    recipe = scaled("static_int8", max_batch_size=1)
    artifact = job.run(recipe, store, lines.append).artifact
    assert artifact is not None, lines
    for entry in artifact.manifest.programs:
        loaded = program.load_entry(artifact, entry, 1)
        images = np.random.default_rng(0).standard_normal((3, 1, 16, 16), np.float32)
        together, (first,) = loaded.run([images])[0], loaded.run([images[:1]])
        np.testing.assert_array_equal(together[:1], first)


def test_model_that_scales_by_its_batch_is_refused(
    scaled: Callable[..., Recipe], tmp_path: Path
) -> None:
    with pytest.raises(SourceError, match=r"beside zeros.* differs by .*model\.max_batch_size: 1"):
        job.run(scaled(None), LocalStore(tmp_path), print)
    assert not [*tmp_path.glob("**/manifest.json")]


def test_cut_of_a_model_without_batches_is_refused(scaled: Callable[..., Recipe]) -> None:
    with pytest.raises(ConfigError, match=r"parallel has 1 cuts.*max_batch_size is 1; remove"):
        scaled(None, parallel=[{"pipeline": 2}], max_batch_size=1)

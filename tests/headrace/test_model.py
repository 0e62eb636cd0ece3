"""``headrace.load``: a real artifact computes in this process, and wrong arrays are refused."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import headrace
from cluster.artifact.artifact import Artifact
from cluster.program import program as programs


@pytest.fixture(scope="module")
def model(int8_artifact_store: Path) -> headrace.Model:
    return headrace.load("tiny-int8", int8_artifact_store)


def images(count: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, 1, 16, 16)).astype(np.float32)


def test_model_answers_as_its_program(model: headrace.Model, int8_artifact: Artifact) -> None:
    batch = images(3)
    (expected,) = programs.load(int8_artifact, 1).run([batch])
    (name,) = (spec.name for spec in model.manifest.inputs)
    for arrays in (batch, [batch], {name: batch}, np.asfortranarray(batch)):
        outputs = model.run(arrays)
        assert list(outputs) == ["logits"]
        np.testing.assert_array_equal(outputs["logits"], expected)
    assert len(model.labels) == 10


def test_artifact_and_directory_load_alike(int8_artifact: Artifact) -> None:
    for given in (int8_artifact, int8_artifact.path, str(int8_artifact.path)):
        assert headrace.load(given).artifact.id == int8_artifact.id


def test_threads_share_a_model(model: headrace.Model) -> None:
    batches = [images(8) * factor for factor in range(1, 9)]
    expected = [model.run(batch)["logits"] for batch in batches]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(model.run, batches))
    for answer, logits in zip(answers, expected, strict=True):
        np.testing.assert_array_equal(answer["logits"], logits)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (images(1)[0], r"is float32\[1, 16, 16\], expected float32\[batch, 1, 16, 16\]"),
        (images(1).astype(np.float64), r"is float64\[1, 1, 16, 16\], expected float32\[batch"),
        (images(0), "has a batch of 0 items, expected at least 1"),
        (np.array(1, np.float32), r"is float32\[\], expected float32\[batch"),
        (1.0, "is of type float, expected a numpy array"),
        ([[1.0]], "is of type list, expected a numpy array"),
        ([images(1), images(1)], "2 arrays: expected 1"),
        ([], "0 arrays: expected 1"),
        ({"pixels": images(1)}, "inputs pixels: expected "),
    ],
)
def test_wrong_arrays_are_refused(model: headrace.Model, arrays: Any, message: str) -> None:
    with pytest.raises(headrace.RequestError, match=message):
        model.run(arrays)


def test_missing_artifact_is_named(tmp_path: Path) -> None:
    with pytest.raises(headrace.ArtifactNotFoundError, match="no artifact 'none'"):
        headrace.load("none", tmp_path)

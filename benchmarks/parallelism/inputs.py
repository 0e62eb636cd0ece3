"""Inputs of the models of ``benchmarks.parallelism``, and seeded items of them.

model's name → INPUTS → items(name, count): requests and evaluation samples

A recipe names its samples ``python:benchmarks.parallelism.inputs:NAME``.
"""

from __future__ import annotations

import numpy as np

from benchmarks.harness.errors import BenchmarkError
from cluster.config.sources import TensorInput

INPUTS = {
    "resnet50": TensorInput(name="input", datatype="FP32", shape=(3, 224, 224)),
    "bert_base": TensorInput(name="input", datatype="INT64", shape=(128,)),
    "tiny_resnet": TensorInput(name="input", datatype="FP32", shape=(3, 64, 64)),
    "tiny_bert": TensorInput(name="input", datatype="INT64", shape=(16,)),
}

VOCABULARY = 30522
"""Size of BERT's vocabulary."""

_SAMPLES = 40


def items(model: str, count: int) -> np.ndarray:
    """Return ``count`` different items ``[count, ...]``.

    Images differ in brightness and contrast, texts in their part of the vocabulary: a network
    with random weights gives nearly equal answers to more similar items.
    """
    tensor = INPUTS[model]
    rng = np.random.default_rng(7)
    if tensor.datatype == "INT64":
        first = rng.integers(0, VOCABULARY - 64, (count, 1))
        return (first + rng.integers(0, 64, (count, *tensor.shape))).astype(np.int64)
    images = rng.standard_normal((count, *tensor.shape), np.float32)
    contrast = np.linspace(0.3, 1.5, count, dtype=np.float32).reshape(-1, 1, 1, 1)
    brightness = rng.uniform(-1, 1, (count, 3, 1, 1)).astype(np.float32)
    return np.ascontiguousarray(images * contrast + brightness)


def some(array: np.ndarray, count: int) -> np.ndarray:
    """Return ``count`` rows of ``array``, repeated as often as needed, C-contiguous."""
    if not len(array):
        raise BenchmarkError("the array has no rows, expected at least one")
    return np.ascontiguousarray(array[np.arange(count) % len(array)])


def resnet50() -> dict[str, np.ndarray]:
    """Return the data of the recipes."""
    return _samples("resnet50")


def bert_base() -> dict[str, np.ndarray]:
    """Return the data of the recipes."""
    return _samples("bert_base")


def tiny_resnet() -> dict[str, np.ndarray]:
    """Return the data of the recipes of ``--quick``."""
    return _samples("tiny_resnet")


def tiny_bert() -> dict[str, np.ndarray]:
    """Return the data of the recipes of ``--quick``."""
    return _samples("tiny_bert")


def _samples(model: str) -> dict[str, np.ndarray]:
    return {INPUTS[model].name: items(model, _SAMPLES)}

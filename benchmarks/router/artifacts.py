"""What the routes stand on: artifacts that are built once into the store.

resnet18   int8, random weights, 224×224                   → fan_out.py, hedge.py
teacher    ResNet-56, published weights, fine-tuned        ┐
student    ResNet-20, published weights, distilled from it ┴ in float32 and in int8 → cascade.py
trivial    two layers on eight numbers                     → rate.py
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks import artifact
from benchmarks.compression_build import OPEN_GATE, Builder, result_id
from benchmarks.router.trivial import FEATURES
from cluster.config.base import parse
from cluster.config.recipe import Recipe

_TEACHER, _STUDENT = "benchmark-router-teacher", "benchmark-router-student"

# The published weights know the training photographs: a threshold chosen on some of those would
# be too low.
_DATA = {"limit": 10000, "validation_from": "held_out", "validation_share": 0.2}
_CHANGES: dict[str, Any] = {
    "programs": [{"kinds": ["openvino"]}],
    "evaluation": {"samples": 2000, "repeats": 30, "batches": [1, 32]},
    "gate": OPEN_GATE,
}
_INT8 = {
    "kind": "quantize",
    "scheme": "static_int8",
    "calibration": "histogram",
    "calibration_samples": 512,
}
_FIT = {"epochs": 1, "learning_rate": 0.01, "augmentation": ["flip", "crop"], "precision": "bf16"}


def resnet18() -> str:
    """Id of the ResNet-18 that all serving benchmarks use."""
    return result_id(artifact.find_or_build().id)


def teacher(builder: Builder, int8: bool) -> str:
    """Id of the ResNet-56 for CIFAR-10."""
    recipe = _cifar(builder, "cifar-resnet56-int8", _TEACHER, {"kind": "train"}, int8)
    return builder.build("the cascade's teacher", recipe).artifact


def student(builder: Builder, int8: bool) -> str:
    """Id of the ResNet-20 for CIFAR-10; its float32 teacher is built before it."""
    teacher(builder, int8=False)
    distill = {
        "kind": "distill",
        "teacher": {"artifact": _TEACHER},
        "losses": [
            {"name": "kl", "weight": 0.9, "temperature": 4},
            {"name": "cross_entropy", "weight": 0.1},
        ],
    }
    recipe = _cifar(builder, "cifar-resnet20-distilled", _STUDENT, distill, int8)
    return builder.build("the cascade's student", recipe).artifact


def trivial(builder: Builder) -> str:
    """Id of a model that costs nothing to compute."""
    given = {"name": "input", "datatype": "FP32", "shape": [FEATURES]}
    raw = {
        "name": "benchmark-router-trivial",
        "model": {"source": "python:benchmarks.router.trivial:model", "tensor": given},
        "data": {"source": "python:benchmarks.router.trivial:data"},
        "programs": [{"kinds": ["openvino"]}],
        "evaluation": {"samples": 8, "metrics": ["cosine"], "repeats": 5, "batches": [1, 8]},
        "gate": OPEN_GATE,
    }
    return builder.build("a trivial model", parse(raw, Recipe, "trivial")).artifact


def trivial_item() -> np.ndarray:
    """One item of the trivial model, float32 ``[1, FEATURES]``."""
    return np.linspace(-1, 1, FEATURES, dtype=np.float32)[None]


def _cifar(builder: Builder, file: str, name: str, fit: dict[str, Any], int8: bool) -> Recipe:
    data = builder.recipe(file).data.model_dump(mode="json") | _DATA
    steps = [fit | _FIT, _INT8] if int8 else [fit | _FIT]
    name = f"{name}-int8" if int8 else name
    return builder.recipe(file, name=name, data=data, steps=steps, **_CHANGES)

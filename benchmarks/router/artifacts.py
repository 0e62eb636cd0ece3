"""What the routes stand on: four artifacts, each built once into the store.

resnet18   int8, random weights, 224×224                        → fan_out.py, hedge.py
teacher    int8 ResNet-56, published weights, fine-tuned        ┐
student    int8 ResNet-20, published weights, distilled from it ┴→ cascade.py
trivial    two layers on eight numbers                          → rate.py
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks import artifact
from benchmarks.compression_build import OPEN_GATE, Builder, result_id
from benchmarks.router.trivial import FEATURES
from cluster.config.base import parse
from cluster.config.recipe import Recipe

TEACHER, STUDENT = "benchmark-router-teacher", "benchmark-router-student"

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


def teacher(builder: Builder) -> str:
    """Id of the ResNet-56 for CIFAR-10."""
    recipe = _cifar(builder, "cifar-resnet56-int8", TEACHER, {"kind": "train"})
    return builder.build("the cascade's teacher", recipe).artifact


def student(builder: Builder) -> str:
    """Id of the ResNet-20 for CIFAR-10; the teacher is in the store by then."""
    distill = {
        "kind": "distill",
        "teacher": {"artifact": TEACHER},
        "losses": [
            {"name": "kl", "weight": 0.9, "temperature": 4},
            {"name": "cross_entropy", "weight": 0.1},
        ],
    }
    recipe = _cifar(builder, "cifar-resnet20-distilled", STUDENT, distill)
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


def _cifar(builder: Builder, file: str, name: str, fit: dict[str, Any]) -> Recipe:
    data = builder.recipe(file).data.model_dump(mode="json") | _DATA
    return builder.recipe(file, name=name, data=data, steps=[fit | _FIT, _INT8], **_CHANGES)

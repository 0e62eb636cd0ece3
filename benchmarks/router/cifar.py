"""Artifacts of the cascade on CIFAR-10, built once into the store.

teacher    ResNet-56, published weights, fine-tuned         ┐
student    ResNet-20, published weights, distilled from it  ┴ in float32 and in int8
"""

from __future__ import annotations

from typing import Any

from benchmarks.artifacts.builder import OPEN_GATE, Builder
from cluster.config.recipe import Recipe

_TEACHER, _STUDENT = "benchmark-router-teacher", "benchmark-router-student"

# The published weights were trained on the training photographs: a threshold chosen on those
# would be too low.
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


def teacher(builder: Builder, int8: bool) -> str:
    """Return the id of the ResNet-56."""
    recipe = _recipe(builder, "cifar-resnet56-int8", _TEACHER, {"kind": "train"}, int8)
    return builder.build("the cascade's teacher", recipe)


def student(builder: Builder, int8: bool) -> str:
    """Return the id of the ResNet-20; its float32 teacher is built before it."""
    teacher(builder, int8=False)
    distill = {
        "kind": "distill",
        "teacher": {"artifact": _TEACHER},
        "losses": [
            {"name": "kl", "weight": 0.9, "temperature": 4},
            {"name": "cross_entropy", "weight": 0.1},
        ],
    }
    recipe = _recipe(builder, "cifar-resnet20-distilled", _STUDENT, distill, int8)
    return builder.build("the cascade's student", recipe)


def _recipe(builder: Builder, file: str, name: str, fit: dict[str, Any], int8: bool) -> Recipe:
    data = builder.recipe(file).data.model_dump(mode="json") | _DATA
    steps = [fit | _FIT, _INT8] if int8 else [fit | _FIT]
    name = f"{name}-int8" if int8 else name
    return builder.recipe(file, name=name, data=data, steps=steps, **_CHANGES)

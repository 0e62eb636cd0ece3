"""Classifier whose computing costs nothing, so that a request costs only serving."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.artifacts.builder import OPEN_GATE, Builder
from cluster.config.base import parse
from cluster.config.recipe import Recipe

FEATURES = 8
_LABELS = 4
_SAMPLES = 40


def build(store: str) -> str:
    """Return the id of the classifier's artifact."""
    module = "benchmarks.artifacts.trivial"
    tensor = {"name": "input", "datatype": "FP32", "shape": [FEATURES]}
    raw = {
        "name": "benchmark-router-trivial",
        "model": {"source": f"python:{module}:model", "tensor": tensor},
        "data": {"source": f"python:{module}:data"},
        "programs": [{"kinds": ["openvino"]}],
        "evaluation": {"samples": 8, "metrics": ["cosine"], "repeats": 5, "batches": [1, 8]},
        "gate": OPEN_GATE,
    }
    return Builder(store).build("a trivial model", parse(raw, Recipe, "trivial"))


def item() -> np.ndarray:
    """Return one item, float32 ``[1, FEATURES]``."""
    return np.linspace(-1, 1, FEATURES, dtype=np.float32)[None]


def model() -> Any:
    """Return the seeded module, ``[batch, 8]`` → logits ``[batch, 4]``."""
    # The measuring process imports this module, too, and must not load PyTorch.
    import torch

    torch.manual_seed(0)
    layers = torch.nn.Linear(FEATURES, FEATURES), torch.nn.ReLU()
    return torch.nn.Sequential(*layers, torch.nn.Linear(FEATURES, _LABELS)).eval()


def data() -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return items float32 ``[N, 8]``, labels int64 ``[N]``, names of the labels."""
    rng = np.random.default_rng(5)
    items = rng.standard_normal((_SAMPLES, FEATURES)).astype(np.float32)
    return items, np.arange(_SAMPLES) % _LABELS, [f"label {number}" for number in range(_LABELS)]

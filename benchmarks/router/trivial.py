"""A classifier that costs nothing: what is left of a request is what serving costs."""

from __future__ import annotations

from typing import Any

import numpy as np

FEATURES = 8
_LABELS = 4
_SAMPLES = 40


def model() -> Any:
    """Two layers, ``[batch, 8]`` → logits ``[batch, 4]``, seeded."""
    # The process that measures imports this module, too, and must not carry PyTorch around.
    import torch

    torch.manual_seed(0)
    layers = torch.nn.Linear(FEATURES, FEATURES), torch.nn.ReLU()
    return torch.nn.Sequential(*layers, torch.nn.Linear(FEATURES, _LABELS)).eval()


def data() -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Numbers float32 ``[N, 8]``, labels int64 ``[N]``, names of the labels."""
    rng = np.random.default_rng(5)
    items = rng.standard_normal((_SAMPLES, FEATURES)).astype(np.float32)
    return items, np.arange(_SAMPLES) % _LABELS, [f"label {number}" for number in range(_LABELS)]

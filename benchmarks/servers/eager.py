"""The float32 model in eager PyTorch: how a model is served before anything is done to it."""

from __future__ import annotations

import numpy as np
import torch
from torchvision.models import resnet18

from benchmarks.images import CLASSES
from benchmarks.in_process import COMPUTE_THREADS


class EagerResNet18:
    """ResNet-18 with seeded random weights, computing with one thread."""

    def __init__(self) -> None:
        torch.set_num_threads(COMPUTE_THREADS)
        torch.manual_seed(0)
        self._module = resnet18(num_classes=CLASSES).eval()

    def run(self, images: np.ndarray) -> np.ndarray:
        """Images ``[batch, 3, 224, 224]`` → logits ``[batch, 1000]``, both float32."""
        with torch.inference_mode():
            logits: np.ndarray = self._module(torch.from_numpy(images)).numpy()
        return logits

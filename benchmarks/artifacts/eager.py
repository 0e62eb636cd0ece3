"""The float32 ResNet-18 in eager PyTorch, the model before any compression."""

from __future__ import annotations

import numpy as np
import torch
from torchvision.models import resnet18

from benchmarks.artifacts.images import CLASSES
from benchmarks.artifacts.program import COMPUTE_THREADS


class EagerResNet18:
    """ResNet-18 with seeded random weights on one compute thread."""

    def __init__(self) -> None:
        torch.set_num_threads(COMPUTE_THREADS)
        torch.manual_seed(0)
        self._module = resnet18(num_classes=CLASSES).eval()

    def run(self, images: np.ndarray) -> np.ndarray:
        """Return logits ``[batch, 1000]`` of images ``[batch, 3, 224, 224]``, both float32."""
        with torch.inference_mode():
            logits: np.ndarray = self._module(torch.from_numpy(images)).numpy()
        return logits

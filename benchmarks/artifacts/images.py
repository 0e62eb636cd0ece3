"""Seeded images of the ResNet-18: calibration samples and requests."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

SIZE = 224
"""Height and width of an image, in pixels."""

CLASSES = 1000


def request_images(count: int) -> np.ndarray:
    """Return ``count`` images, float32 ``[count, 3, 224, 224]``.

    Brightness and contrast differ: a network with random weights gives nearly equal answers to
    images that differ in noise alone.
    """
    rng = np.random.default_rng(7)
    images = rng.standard_normal((count, 3, SIZE, SIZE), np.float32)
    contrast = np.linspace(0.3, 1.5, count, dtype=np.float32).reshape(-1, 1, 1, 1)
    brightness = rng.uniform(-1, 1, (count, 3, 1, 1)).astype(np.float32)
    return np.ascontiguousarray(images * contrast + brightness)


def calibration() -> tuple[list[bytes], np.ndarray, list[str]]:
    """Return the data of ``resnet18.yaml``: PNG files, labels int64 ``[N]``, class names."""
    rng = np.random.default_rng(11)
    files = []
    for _ in range(80):
        coarse = rng.integers(0, 256, (14, 14, 3), np.uint8)
        image = Image.fromarray(coarse).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
        file = io.BytesIO()
        image.save(file, "PNG")
        files.append(file.getvalue())
    return files, np.arange(len(files)), [f"class {number}" for number in range(CLASSES)]

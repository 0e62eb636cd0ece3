"""Resizing of 8-bit images to the bit as torch does it: torch itself is the reference."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch
from PIL import Image

from cluster.config.sources import ImageInput
from cluster.preprocess import image_tensor
from cluster.preprocess.torch_resize import torch_resized

SIZES = [
    ((500, 375), (224, 224)),  # smaller
    ((33, 47), (224, 224)),  # larger
    ((300, 40), (64, 64)),  # smaller one way, larger the other
    ((224, 100), (224, 224)),  # one side unchanged
    ((1, 1), (9, 5)),
    ((1, 300), (17, 3)),
    ((701, 1), (1, 8)),
    ((64, 2000), (64, 8)),  # 250 source rows for each
]


def by_torch(pixels: np.ndarray, width: int, height: int, interpolation: str) -> np.ndarray:
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    resized = torch.nn.functional.interpolate(
        tensor, size=(height, width), mode=interpolation, antialias=True, align_corners=False
    )
    return resized[0].permute(1, 2, 0).numpy()


@pytest.mark.parametrize(("source", "target"), SIZES)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_equal_those_of_torch(
    source: tuple[int, int],
    target: tuple[int, int],
    interpolation: Literal["bilinear", "bicubic"],
    channels: int,
) -> None:
    random = np.random.default_rng(sum(source))
    pixels = random.integers(0, 256, (source[1], source[0], channels), dtype=np.uint8)
    pixels[: source[1] // 2] = 255 * (pixels[: source[1] // 2] > 127)  # overshoots of the cubic
    image = Image.fromarray(pixels.squeeze(2) if channels == 1 else pixels)
    resized = torch_resized(image, *target, interpolation)
    assert (resized.mode, resized.size) == (image.mode, target)
    expected = by_torch(pixels, *target, interpolation)
    np.testing.assert_array_equal(np.asarray(resized).reshape(expected.shape), expected)


def test_tensor_is_resized_as_its_source_does() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (90, 200, 3), dtype=np.uint8)
    spec = ImageInput(size=32, resampling="torch", mean=(0.0,) * 3, std=(1.0,) * 3)
    tensor = image_tensor(Image.fromarray(pixels), spec)
    expected = by_torch(pixels, 32, 32, "bilinear").transpose(2, 0, 1) / np.float32(255)
    np.testing.assert_allclose(tensor, expected, rtol=1e-6)

"""Resizing of an 8-bit image with antialias as torch does it, to the bit.

weights of each output pixel, float64 → 16-bit integers w · 2^p → sum, rounded, 8 bits
                                           first along the width, then along the height

torch.nn.functional.interpolate has this path for uint8 on CPUs (ATen's UpSampleKernel.cpp), which
Transformers' and torchvision's transforms of tensors use. Pillow's weights have 22 bits, so a few
pixels in a thousand differ by one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

_MAX_PRECISION = 22
_BLOCK = 16
"""Output pixels that are computed at a time: their inputs overlap."""

_CUBIC = -0.5
"""Coefficient of Keys' cubic with antialias."""

_EXACT_FLOAT32 = 2**24


@dataclass(frozen=True)
class _Filter:
    """Kernel, zero outside of ``radius`` source pixels at scale 1."""

    radius: float
    kernel: Callable[[np.ndarray], np.ndarray]


def _triangle(distance: np.ndarray) -> np.ndarray:
    triangle: np.ndarray = np.maximum(0.0, 1.0 - np.abs(distance))
    return triangle


def _keys(distance: np.ndarray) -> np.ndarray:
    """Return Keys' kernel (Keys, "Cubic Convolution Interpolation", 1981)."""
    x = np.abs(distance)
    near = ((_CUBIC + 2) * x - (_CUBIC + 3)) * x * x + 1
    far = ((_CUBIC * x - 5 * _CUBIC) * x + 8 * _CUBIC) * x - 4 * _CUBIC
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


_FILTERS = {"bilinear": _Filter(1.0, _triangle), "bicubic": _Filter(2.0, _keys)}


def torch_resized(
    image: Image.Image, width: int, height: int, interpolation: Literal["bilinear", "bicubic"]
) -> Image.Image:
    """Return an image of mode L or RGB at another size."""
    chosen = _FILTERS[interpolation]
    transposed = image.transpose(Image.Transpose.TRANSPOSE)  # faster than NumPy's copy
    pixels = np.asarray(transposed).reshape(image.width, image.height, -1)
    wide = _along_first(pixels, width, chosen)
    resized = _along_first(np.ascontiguousarray(wide.transpose(1, 0, 2)), height, chosen)
    return Image.fromarray(resized.squeeze(2) if image.mode == "L" else resized)


def _along_first(pixels: np.ndarray, target: int, chosen: _Filter) -> np.ndarray:
    """Return uint8 ``[source, ...]`` resized to ``[target, ...]``; unchanged for equal sizes."""
    source = len(pixels)
    if source == target:
        return pixels
    first, weights, precision = _weights(source, target, chosen)
    # Sums of products of integers are exact while they fit into the mantissa.
    largest = 255 * np.abs(weights).sum(axis=1).max() + 2**precision
    dtype = np.float32 if largest < _EXACT_FLOAT32 else np.float64
    rows = pixels.reshape(source, -1)
    resized = np.empty((target, rows.shape[1]), np.uint8)
    for start in range(0, target, _BLOCK):
        end = min(start + _BLOCK, target)
        begin, count = int(first[start]), weights.shape[1]
        span = min(int(first[end - 1]) + count, source) - begin
        matrix = np.zeros((end - start, span + count), dtype)
        for row in range(start, end):
            offset = int(first[row]) - begin
            matrix[row - start, offset : offset + count] = weights[row]
        sums = matrix[:, :span] @ rows[begin : begin + span].astype(dtype)
        rounded = np.floor((sums + 2 ** (precision - 1)) / 2**precision)
        resized[start:end] = rounded.clip(0, 255)
    return resized.reshape(target, *pixels.shape[1:])


def _weights(source: int, target: int, chosen: _Filter) -> tuple[np.ndarray, np.ndarray, int]:
    """Return first positions ``[target]``, integer weights ``[target, taps]``, and their precision.

    A weight of w is w · 2^precision, with the largest precision at which all fit into 16 bits.
    Weights beyond the last source pixel are 0.
    """
    scale = source / target
    stretch = max(scale, 1.0)
    support = chosen.radius * stretch
    centres = scale * (np.arange(target) + 0.5)
    first = np.maximum((centres - support + 0.5).astype(np.int64), 0)
    taps = math.ceil(support) * 2 + 1
    sizes = (np.minimum((centres + support + 0.5).astype(np.int64), source) - first).clip(0, taps)
    positions = np.arange(taps)
    distances = (positions + first[:, None] - centres[:, None] + 0.5) * (1 / stretch)
    values = np.where(positions < sizes[:, None], chosen.kernel(distances), 0.0)
    values /= values.sum(axis=1, keepdims=True)
    precision, largest = 0, float(values.max())
    while precision < _MAX_PRECISION and int(0.5 + largest * 2 ** (precision + 1)) < 2**15:
        precision += 1
    scaled = values * 2**precision
    return first, np.trunc(scaled + np.copysign(0.5, scaled)), precision

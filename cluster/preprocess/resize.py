"""Resizing and centre crop of an 8-bit image, as the library of the model's source does both.

pillow   Image.resize: the order of its two passes depends on the sizes (Pillow 13)
torch    with weights of 16 bits (torch_resize.py)
no antialias: the nearest 2 or 4 pixels of each axis, as OpenCV and torch do
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from cluster.config.sources import ImageInput
from cluster.errors import PayloadTooLargeError
from cluster.preprocess.flatten import flatten
from cluster.preprocess.torch_resize import torch_resized

MAX_RESIZED_PIXELS = 16 * 2**20
"""Maximum pixels during resizing: an image of 1 × 10,000,000 would otherwise grow."""

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

_CUBIC = -0.75
"""Coefficient of Keys' cubic without antialias, in torch and OpenCV. Pillow's is -0.5."""


def resized_and_cropped(image: Image.Image, mode: str, spec: ImageInput) -> np.ndarray:
    """Return the image in ``mode`` (L or RGB), resized and cropped: uint8 ``[size, size, ...]``.

    PayloadTooLargeError when resizing a long and thin image would take more than
    :data:`MAX_RESIZED_PIXELS`.
    """
    width, height = _resized(image.width, image.height, spec)
    pixels = width * max(image.height, height)
    if pixels > MAX_RESIZED_PIXELS:
        raise PayloadTooLargeError(
            f"an image of {image.width} × {image.height} pixels is too long and thin: resizing to "
            f"{width} × {height} takes {pixels} pixels, the limit is {MAX_RESIZED_PIXELS}"
        )
    image = _resize(flatten(image, mode), width, height, spec)
    if spec.resize is None:
        return np.asarray(image)
    left, top = (_offset(side - spec.size, spec) for side in (width, height))
    return np.asarray(image.crop((left, top, left + spec.size, top + spec.size)))


def _resized(width: int, height: int, spec: ImageInput) -> tuple[int, int]:
    """Return width and height after resizing."""
    if spec.resize is None:
        return spec.size, spec.size
    if not spec.keep_aspect:
        return spec.resize, spec.resize
    short = min(width, height)
    # int() rounds down, like torchvision and Transformers.
    return (
        spec.resize if width == short else int(spec.resize * width / short),
        spec.resize if height == short else int(spec.resize * height / short),
    )


def _offset(margin: int, spec: ImageInput) -> int:
    # round() rounds half to even.
    return round(margin / 2) if spec.crop_offset == "nearest" else margin // 2


def _resize(image: Image.Image, width: int, height: int, spec: ImageInput) -> Image.Image:
    if image.size == (width, height):
        return image
    if spec.interpolation == "nearest":
        if spec.resampling == "torch":
            return _nearest(image, width, height)
    elif not spec.antialias:
        return _interpolated(image, width, height, spec)
    chosen = _FILTERS[spec.interpolation]
    if spec.resampling == "torch":
        if spec.interpolation in ("bilinear", "bicubic"):
            return torch_resized(image, width, height, spec.interpolation)
        image = image.resize((width, image.height), chosen)
    return image.resize((width, height), chosen)


def _nearest(image: Image.Image, width: int, height: int) -> Image.Image:
    """Return the image by torch's ``nearest-exact``: its positions are products in float32."""

    def positions(source: int, target: int) -> np.ndarray:
        scale = np.float32(source) / np.float32(target)
        centres = (np.arange(target, dtype=np.float32) + np.float32(0.5)) * scale
        return np.minimum(centres.astype(np.int64), source - 1)

    pixels = np.asarray(image)
    rows, columns = positions(image.height, height), positions(image.width, width)
    return Image.fromarray(pixels[rows][:, columns])


def _interpolated(image: Image.Image, width: int, height: int, spec: ImageInput) -> Image.Image:
    """Return the image by interpolation between the nearest pixels, in float32."""
    rows, row_weights = _taps(image.height, height, spec)
    columns, column_weights = _taps(image.width, width, spec)
    # Only the rows that are read: a large image is never converted to float as a whole.
    used, places = np.unique(rows, return_inverse=True)
    pixels = np.asarray(image)[used].reshape(len(used), image.width, -1)
    wide = sum(
        pixels[:, column] * weight[:, None]
        for column, weight in zip(columns, column_weights, strict=True)
    )
    if spec.resampling == "torch":
        wide = np.rint(wide).clip(0, 255)
    result = sum(
        wide[place] * weight[:, None, None]
        for place, weight in zip(places.reshape(rows.shape), row_weights, strict=True)
    )
    whole = np.rint(result).clip(0, 255).astype(np.uint8)
    return Image.fromarray(whole.squeeze(2) if image.mode == "L" else whole)


def _taps(source: int, target: int, spec: ImageInput) -> tuple[np.ndarray, np.ndarray]:
    """Return positions int64 and weights float32 of one axis, both ``[2 or 4, target]``."""
    centres = (np.arange(target) + 0.5) * (source / target) - 0.5
    if spec.interpolation == "bilinear":
        centres = centres.clip(min=0)
    first = np.floor(centres).astype(np.int64)
    after = centres - first
    if spec.interpolation == "bilinear":
        positions, weights = [first, first + 1], [1 - after, after]
    else:
        positions = [first - 1, first, first + 1, first + 2]
        weights = [_cubic(1 + after), _cubic(after), _cubic(1 - after), _cubic(2 - after)]
    return np.stack(positions).clip(0, source - 1), np.stack(weights).astype(np.float32)


def _cubic(distance: np.ndarray) -> np.ndarray:
    """Return Keys' kernel at distances of 0..2 (Keys, "Cubic Convolution Interpolation", 1981)."""
    near = ((_CUBIC + 2) * distance - (_CUBIC + 3)) * distance**2 + 1
    far = ((_CUBIC * distance - 5 * _CUBIC) * distance + 8 * _CUBIC) * distance - 4 * _CUBIC
    return np.where(distance <= 1, near, far)

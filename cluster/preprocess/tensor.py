"""A decoded image → the model's input tensor: resized, cropped, scaled."""

from __future__ import annotations

import numpy as np
from PIL import Image

from cluster.config.sources import ImageInput
from cluster.errors import PayloadTooLargeError
from cluster.preprocess.flatten import flatten

MAX_RESIZED_PIXELS = 16 * 2**20
"""Maximum pixels during resizing: an image of 1 × 10,000,000 would otherwise grow."""


def image_tensor(image: Image.Image, spec: ImageInput) -> np.ndarray:
    """Return the model's input for one image: float32 ``[channels, size, size]``, C-contiguous.

    The result equals that of torchvision's ``ImageClassification`` transform of the PIL image:
    shorter side to ``spec.resize`` (bilinear, antialiased), centre crop to ``spec.size``, scaled
    to 0..1, then ``(x - mean) / std`` in float32. With ``spec.resize`` None the whole image is
    resized to ``size × size`` instead. PayloadTooLargeError when resizing a long and thin image
    would take more than :data:`MAX_RESIZED_PIXELS`.
    """
    image = _resize_and_crop(image, "L" if spec.channels == 1 else "RGB", spec)
    pixels = np.asarray(image, np.uint8).reshape(spec.size, spec.size, spec.channels)
    out = np.empty((spec.channels, spec.size, spec.size), np.float32)
    # One operation at a time, in torchvision's order, for equal rounding.
    np.divide(pixels.transpose(2, 0, 1), np.float32(255), out=out, dtype=np.float32)
    out -= np.array(spec.mean, np.float32).reshape(-1, 1, 1)
    out /= np.array(spec.std, np.float32).reshape(-1, 1, 1)
    return out


def _resize_and_crop(image: Image.Image, mode: str, spec: ImageInput) -> Image.Image:
    width, height = image.size
    if spec.resize is None:
        to_width = to_height = spec.size
    else:
        short = min(width, height)
        # int() rounds down, like torchvision.
        to_width = spec.resize if width == short else int(spec.resize * width / short)
        to_height = spec.resize if height == short else int(spec.resize * height / short)
    # PIL resizes the width first: the intermediate image is `to_width × height`.
    pixels = to_width * max(height, to_height)
    if pixels > MAX_RESIZED_PIXELS:
        raise PayloadTooLargeError(
            f"an image of {width} × {height} pixels is too long and thin: resizing to "
            f"{to_width} × {to_height} takes {pixels} pixels, the limit is {MAX_RESIZED_PIXELS}"
        )
    image = flatten(image, mode).resize((to_width, to_height), Image.Resampling.BILINEAR)
    if spec.resize is None:
        return image
    # round() rounds half to even, like torchvision.
    left = round((to_width - spec.size) / 2)
    top = round((to_height - spec.size) / 2)
    return image.crop((left, top, left + spec.size, top + spec.size))

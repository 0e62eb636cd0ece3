"""A decoded image → the model's input tensor: resized and cropped, then scaled."""

from __future__ import annotations

import numpy as np
from PIL import Image

from cluster.config.sources import ImageInput
from cluster.preprocess.resize import resized_and_cropped


def image_tensor(image: Image.Image, spec: ImageInput) -> np.ndarray:
    """Return the model's input for one image: float32 ``[channels, size, size]``, C-contiguous.

    With the default fields and ``spec.resize``, the result equals that of torchvision's
    ``ImageClassification`` transform of the PIL image: shorter side to ``spec.resize`` (bilinear,
    antialiased), centre crop to ``spec.size``, scaled to 0..1, then ``(x - mean) / std`` in
    float32. With ``spec.resize`` None the whole image is resized to ``size × size`` instead.
    PayloadTooLargeError for a long and thin image, see :mod:`cluster.preprocess.resize`.
    """
    pixels = resized_and_cropped(image, "L" if spec.channels == 1 else "RGB", spec)
    pixels = pixels.reshape(spec.size, spec.size, spec.channels)
    if spec.channel_order == "bgr":
        pixels = pixels[..., ::-1]
    out = np.empty((spec.channels, spec.size, spec.size), np.float32)
    # One operation at a time, in torchvision's order, for equal rounding.
    np.divide(pixels.transpose(2, 0, 1), np.float32(255), out=out, dtype=np.float32)
    out -= np.array(spec.mean, np.float32).reshape(-1, 1, 1)
    out /= np.array(spec.std, np.float32).reshape(-1, 1, 1)
    return out

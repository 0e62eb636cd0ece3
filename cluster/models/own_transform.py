"""The image transform of a model's source, compared with ours on noise.

noise pictures ─┬─ the source's own transform ─┐
                └─ image_tensor(ImageInput) ───┴→ largest difference, as a share of the spread

Any setting that :class:`ImageInput` does not express shows here, also one of a later release.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image
from pydantic import ValidationError

from cluster.config.sources import ImageInput
from cluster.errors import SourceError
from cluster.preprocess import image_tensor

Transform = Callable[[Image.Image], np.ndarray]
"""RGB image, or grey for models of one channel, to the model's input ``[channels, h, w]``."""

MAX_DIFFERENCE = 1e-3
"""Largest difference of equal transforms. Libraries round a few pixels differently, which reaches
3e-4; another interpolation differs by 0.03 and more."""

_SIZES = ((41, 31), (37, 61), (67, 317), (263, 257), (331, 521), (401, 307), (499, 163))
"""Width and height of the pictures: small, tall, hardly resized, large, wide; cheap ones first.

They are primes: simple ratios give many exact halves, which libraries round to either side.
"""

_GRAIN = 8
"""Coarse areas along the shorter side, so that small inputs have a spread, too."""


class OwnTransform:
    """The source's transform, with its answers to the noise pictures, each computed once."""

    def __init__(self, transform: Transform) -> None:
        self._transform = transform
        self._answers: dict[tuple[int, int, str, bool], tuple[Image.Image, np.ndarray]] = {}

    def difference(self, image: ImageInput) -> float:
        """Return the largest mean difference of a noise picture, over the spread.

        The spread is the standard deviation of the source's values. Infinite for another shape.
        The pictures after one over :data:`MAX_DIFFERENCE` are left out.

        Two pictures need no resizing, and leave crops with an odd number of surplus columns or
        rows. One picture for an RGB model is grey.
        """
        side = image.resize or image.size
        sizes = (*_SIZES, (side + 3, side), (side, side + 5), (image.size, image.size))
        mode = "L" if image.channels == 1 else "RGB"
        largest = 0.0
        for size, colourless in (*((size, False) for size in sizes), ((307, 211), True)):
            picture, theirs = self._answer(*size, mode, colourless)
            ours = image_tensor(picture, image)
            if theirs.shape != ours.shape:
                return float("inf")
            spread = max(float(theirs.std()), np.finfo(float).tiny)
            largest = max(largest, float(np.abs(theirs - ours).mean()) / spread)
            if not largest <= MAX_DIFFERENCE:  # NaN, too
                break
        return largest

    def require_equal(self, image: ImageInput) -> None:
        """Raise UnsupportedTransformError if it differs from ``image``."""
        distance = self.difference(image)
        if not distance <= MAX_DIFFERENCE:
            raise UnsupportedTransformError(f"model.image comes {apart(distance)}")

    def values(self, picture: Image.Image) -> np.ndarray:
        """Return the source's input for a picture, float64; UnsupportedTransformError."""
        try:
            return np.asarray(self._transform(picture), np.float64)
        # The source's code can raise anything.
        except Exception as error:
            raise UnsupportedTransformError(f"it raised {type(error).__name__}: {error}") from error

    def _answer(
        self, width: int, height: int, mode: str, colourless: bool
    ) -> tuple[Image.Image, np.ndarray]:
        """Return a picture in ``mode``, and the source's input for it."""
        key = (width, height, mode, colourless)
        if key not in self._answers:
            picture = _noise(width, height).convert("L" if colourless else mode).convert(mode)
            self._answers[key] = picture, self.values(picture)
        return self._answers[key]


class UnsupportedTransformError(Exception):
    """Reason why no ImageInput equals a source's transform."""

    def for_source(self, name: str, settings: str) -> SourceError:
        """Return the error for the user; ``settings`` describes the transform."""
        return SourceError(
            f"{name}: its image preprocessing is not supported: {self} ({settings}). Nothing was "
            f"built; declare the closest model.image (size, resize, interpolation, mean, std, ...)"
        )


def image_of(fields: dict[str, Any]) -> ImageInput:
    """Return the ImageInput of ``fields``; UnsupportedTransformError if it does not allow them."""
    try:
        return ImageInput.model_validate(fields)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        field = "".join(f"{name}: " for name in problem["loc"])
        reason = f"{field}{problem['msg'].removeprefix('Value error, ')}"
        raise UnsupportedTransformError(reason) from error


def apart(distance: float) -> str:
    """Return a difference with its limit, in words."""
    return f"within {distance:.2g} of its spread, only {MAX_DIFFERENCE:g} is rounding"


def _noise(width: int, height: int) -> Image.Image:
    """Return coarse areas of noise with a quarter of fine noise, RGB."""
    rng = np.random.default_rng([width, height])
    grain = max(1, min(width, height) // _GRAIN)
    coarse = rng.integers(0, 256, (height // grain + 1, width // grain + 1, 3))
    coarse = coarse.repeat(grain, axis=0).repeat(grain, axis=1)[:height, :width]
    fine = rng.integers(0, 256, (height, width, 3))
    return Image.fromarray(((3 * coarse + fine) // 4).astype(np.uint8))

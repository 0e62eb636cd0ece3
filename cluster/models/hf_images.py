"""A Transformers image processor → an exactly equivalent ImageInput."""

from __future__ import annotations

import math
from typing import Any

from pydantic import ValidationError

from cluster.config.sources import ImageInput
from cluster.errors import SourceError


def image_input(processor: Any, path: str) -> ImageInput:
    """Return the preprocessing of ``processor``; resampling is always bilinear.

    Raises :class:`SourceError` for steps that :class:`ImageInput` cannot express: scaling other
    than to 0..1, a size that is not square, or a crop from a distorted image.
    """
    settings = processor.to_dict()
    if not settings.get("do_rescale", True) or not math.isclose(
        settings.get("rescale_factor", 1 / 255), 1 / 255
    ):
        raise _inexpressible(path, "it does not scale pixels to 0..1", settings)
    if not settings.get("do_resize", True):
        raise _inexpressible(path, "it does not resize", settings)
    size, resize = _sizes(settings, path)
    normalized = settings.get("do_normalize", True)
    mean = _per_channel(settings.get("image_mean")) if normalized else (0.0, 0.0, 0.0)
    std = _per_channel(settings.get("image_std")) if normalized else (1.0, 1.0, 1.0)
    try:
        return ImageInput.model_validate(
            {"size": size, "resize": resize, "channels": len(mean), "mean": mean, "std": std}
        )
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]["msg"]
        raise _inexpressible(path, problem, settings) from error


def _sizes(settings: dict[str, Any], path: str) -> tuple[int, int | None]:
    """Return (size, resize) of :class:`ImageInput`."""
    size = dict(settings.get("size") or {})
    edge = size.get("shortest_edge")
    if edge is not None and settings.get("crop_pct"):
        # ConvNeXT's rule: small sizes are cropped from an image 1/crop_pct larger; from 384
        # pixels, the whole image is squeezed into the square.
        return (edge, int(edge / settings["crop_pct"])) if edge < 384 else (edge, None)
    crops = settings.get("do_center_crop", False)
    crop = dict(settings.get("crop_size") or {})
    if crops and edge is not None and _is_square(crop):
        return crop["height"], edge
    if not crops and _is_square(size):
        return size["height"], None
    raise _inexpressible(path, "its sizes have no supported form", settings)


def _is_square(size: dict[str, int]) -> bool:
    return size.get("height") is not None and size.get("height") == size.get("width")


def _per_channel(values: Any) -> tuple[float, ...]:
    return (values,) * 3 if isinstance(values, int | float) else tuple(values or ())


def _inexpressible(path: str, reason: str, settings: dict[str, Any]) -> SourceError:
    keys = ("size", "do_center_crop", "crop_size", "rescale_factor", "image_mean", "image_std")
    shown = ", ".join(f"{key}={settings[key]}" for key in keys if settings.get(key) is not None)
    return SourceError(
        f"hf:{path}: its image preprocessing is not supported: {reason} ({shown}); declare the "
        f"closest model.image (size, resize, mean, std)"
    )

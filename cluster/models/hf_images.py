"""A Transformers image processor → an equal ImageInput, found by its own answers.

settings ─ geometries ─→ candidates ─┐
processor(black), processor(white) ──┴ scaled ─→ the first that equals the processor on noise

Settings only propose; the processor's own output decides. So scaling and normalizing settings need
no names here: they are one line per channel, measured at black and white.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np
from PIL import Image

from cluster.config.sources import ImageInput
from cluster.models.own_transform import (
    MAX_DIFFERENCE,
    OwnTransform,
    UnsupportedTransformError,
    apart,
    image_of,
)

_INTERPOLATIONS = {
    0: "nearest",
    1: "lanczos",
    2: "bilinear",
    3: "bicubic",
    "nearest-exact": "nearest",
    "lanczos": "lanczos",
    "bilinear": "bilinear",
    "bicubic": "bicubic",
    None: "bilinear",
}
"""Values of ``resample``, of PIL's and torchvision's enumerations, that ImageInput has."""

_LEVIT = 256 / 224
"""Enlargement before the crop that LeViT's processor has in its code."""

_UNDERSTOOD = frozenset(
    {
        "image_processor_type",
        "do_resize",
        "size",
        "resample",
        "do_center_crop",
        "crop_size",
        "crop_pct",
        "resize_short",
        "do_rescale",
        "rescale_factor",
        "rescale_offset",
        "do_normalize",
        "image_mean",
        "image_std",
        "include_top",
        "do_flip_channel_order",
        "do_convert_rgb",
        "do_reduce_labels",
        "data_format",
        "input_data_format",
        "return_tensors",
        "device",
        "disable_grouping",
        "default_to_square",
    }
)
"""Settings that are expressed, or do not change the values of an RGB image."""


def image_input(processor: Any, path: str) -> ImageInput:
    """Return the ImageInput that gives the same values as ``processor``.

    Raises :class:`SourceError`, with the settings, if none does: inputs that are not square or
    vary in size, a crop from outside the image, padding, patches, ...
    """
    settings = processor.to_dict()
    own = own_transform_of(processor)
    try:
        scaled = _scaled(own, settings, channels=_channels(settings))
        return _first_equal(own, scaled, settings, getattr(processor, "backend", ""))
    except UnsupportedTransformError as error:
        raise error.for_source(f"hf:{path}", _shown(settings)) from error


def own_transform_of(processor: Any) -> OwnTransform:
    """Return the processor as a function of one image."""
    mode = "L" if _channels(processor.to_dict()) == 1 else "RGB"

    def transform(picture: Image.Image) -> np.ndarray:
        answer = processor(images=picture.convert(mode), return_tensors="np")
        return np.asarray(answer["pixel_values"])[0]

    return OwnTransform(transform)


def _channels(settings: dict[str, Any]) -> int:
    mean = settings.get("image_mean")
    return 1 if isinstance(mean, Sequence) and len(mean) == 1 else 3


def _scaled(own: OwnTransform, settings: dict[str, Any], *, channels: int) -> dict[str, Any]:
    """Return size, channels and their order, mean and std, as measured on plain images."""
    black, other = _plain(own, (0, 0, 0)), _plain(own, (0, 0, 0), (300, 500))
    white, red = _plain(own, (255, 255, 255)), _plain(own, (255, 0, 0))
    if black.ndim != 3 or black.shape[0] != channels or black.shape[1] != black.shape[2]:
        expected = f"[{channels}, size, size]"
        raise UnsupportedTransformError(f"its input is {list(black.shape)}, expected {expected}")
    if black.shape != other.shape:
        raise UnsupportedTransformError("the size of its input follows that of the image")
    height, width = black.shape[1:]
    low, high, first = (values[:, height // 2, width // 2] for values in (black, white, red))
    if not (high > low).all():
        raise UnsupportedTransformError(f"white gives {high.tolist()}, black {low.tolist()}")
    std = 1 / (high - low)
    order = "bgr" if channels == 3 and first[0] == low[0] else "rgb"
    return {
        "size": height,
        "channels": channels,
        "channel_order": order,
        "mean": _tidy(-low * std, settings),
        "std": _tidy(std, settings),
    }


def _plain(
    own: OwnTransform, colour: tuple[int, int, int], size: tuple[int, int] = (400, 300)
) -> np.ndarray:
    """Return the source's input for an image of one colour."""
    return own.values(Image.new("RGB", size, colour))


def _tidy(values: np.ndarray, settings: dict[str, Any]) -> tuple[float, ...]:
    """Return the values as the settings write them, else to the 7 digits of float32."""
    keys = ("image_mean", "image_std")
    written = np.concatenate([[0.0], *(np.ravel(settings.get(key) or 0.0) for key in keys)])
    nearest = [float(written[np.abs(written - value).argmin()]) for value in values]
    return tuple(
        number if abs(number - value) < 1e-6 else float(f"{value:.7g}")
        for number, value in zip(nearest, values, strict=True)
    )


def _first_equal(
    own: OwnTransform, scaled: dict[str, Any], settings: dict[str, Any], backend: str
) -> ImageInput:
    closest, invalid = math.inf, ""
    for geometry in _geometries(settings, backend):
        try:
            image = image_of({**scaled, **geometry})
        except UnsupportedTransformError as error:
            invalid = invalid or str(error)
            continue
        distance = own.difference(image)
        if distance <= MAX_DIFFERENCE:
            return image
        closest = min(closest, distance)
    unknown = {key: settings[key] for key in settings.keys() - _UNDERSTOOD if settings[key]}
    reasons = [f"model.image comes {apart(closest)}"] if closest < math.inf else []
    reasons += [f"model.image has no {_listed(unknown)}"] if unknown else []
    raise UnsupportedTransformError("; ".join([*reasons, *([invalid] if invalid else [])]))


def _geometries(settings: dict[str, Any], backend: str) -> Iterator[dict[str, Any]]:
    """Yield candidates for resizing and cropping; the likeliest first."""
    resample = settings.get("resample")
    interpolation = _INTERPOLATIONS.get(getattr(resample, "value", resample))
    if interpolation is None:
        raise UnsupportedTransformError(
            f"resample={resample!r}, expected nearest, bilinear, bicubic or lanczos (0 to 3)"
        )
    libraries = ("pillow", "torch") if backend == "pil" else ("torch", "pillow")
    sizes: list[dict[str, Any]] = [{"resize": None}]
    for resize, aspect, offset in product(_resizes(settings), (True, False), ("down", "nearest")):
        sizes.append({"resize": resize, "keep_aspect": aspect, "crop_offset": offset})
    filtered = interpolation in ("bilinear", "bicubic")
    antialiases = (True, False) if filtered else (True,)
    for antialias, size, resampling in product(antialiases, sizes, libraries):
        yield {
            **size,
            "interpolation": interpolation,
            "resampling": resampling,
            "antialias": antialias,
        }


def _resizes(settings: dict[str, Any]) -> list[int]:
    """Return the sides to which processors resize before a crop."""
    size = dict(settings.get("size") or {})
    edges = [size.get("shortest_edge"), size.get("height"), settings.get("resize_short")]
    share = settings.get("crop_pct") or 1
    sides = [int(side) for edge in edges if edge for side in (edge, edge / share, edge * _LEVIT)]
    return list(dict.fromkeys(sides))


def _shown(settings: dict[str, Any]) -> str:
    names = ("size", "crop_size", "resample", "crop_pct", "image_mean", "image_std")
    shown = {key: settings[key] for key in names if settings.get(key) is not None}
    shown |= {key: value for key, value in settings.items() if key.startswith("do_")}
    return f"{settings.get('image_processor_type', 'its processor')}: {_listed(shown)}"


def _listed(values: dict[Any, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in values.items())

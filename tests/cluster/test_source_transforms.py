"""Preprocessing of sources: equal to the source's own transform, or refused with the reason.

The right value is always the source's own: torchvision's transforms, Transformers' processors.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image, ImageFilter
from pydantic import ValidationError
from torchvision.transforms import InterpolationMode
from torchvision.transforms._presets import ImageClassification
from torchvision.transforms.v2 import functional

from cluster.config.sources import ImageInput
from cluster.errors import SourceError
from cluster.models.from_torchvision import preset_image
from cluster.models.hf_images import image_input
from cluster.preprocess import image_tensor

HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


def picture(width: int, height: int) -> Image.Image:
    """Return waves of colour with edges and noise."""
    rng = np.random.default_rng(width * 1000 + height)
    y, x = np.mgrid[0:height, 0:width]
    waves = [60 * np.sin(x / 9), 50 * np.cos(y / 5), 40 * np.sign(np.sin((x + y) / 7))]
    noisy = 120 + np.stack(waves, axis=-1) + rng.normal(0, 15, (height, width, 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def distance(theirs: np.ndarray, ours: np.ndarray) -> float:
    """Return the mean difference as a share of the spread."""
    assert theirs.shape == ours.shape
    return float(np.abs(theirs - ours).mean() / theirs.std())


# ---------------------------------------------------------------------------- torchvision


def presets() -> Iterator[Any]:
    """Yield each preset of torchvision's classification weights, with the first of its names."""
    seen = set()
    for name in torchvision.models.list_models(module=torchvision.models):
        for key, weights in torchvision.models.get_model_weights(name).__members__.items():
            preset = weights.transforms()
            if weights.meta.get("categories") and repr(preset) not in seen:
                seen.add(repr(preset))
                yield pytest.param(preset, id=f"{name} {key}")


@pytest.mark.parametrize("preset", list(presets()))
def test_input_equals_every_preset_of_torchvision(preset: ImageClassification) -> None:
    image = preset_image(preset)
    assert image.interpolation == preset.interpolation.value
    for size in ((311, 227), (67, 317)):
        expected = preset(picture(*size)).numpy()
        np.testing.assert_array_equal(image_tensor(picture(*size), image), expected, strict=True)


class Blurred(ImageClassification):
    """Preset with a step that ImageInput does not have."""

    def forward(self, img: Image.Image) -> torch.Tensor:
        return super().forward(img.filter(ImageFilter.BLUR))


def test_preset_with_another_step_is_refused() -> None:
    with pytest.raises(
        SourceError,
        match=r"torchvision:x: its image preprocessing is not supported: model\.image comes within "
        r"\d\.\d+ of its spread.*crop_size=\[24\].*declare the closest model\.image",
    ):
        preset_image(Blurred(crop_size=24, resize_size=28), "torchvision:x")
    assert preset_image(ImageClassification(crop_size=24, resize_size=28)).resize == 28


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"interpolation": InterpolationMode.BOX}, "'nearest', 'bilinear', 'bicubic' or 'lanczos'"),
        ({"resize_size": 20}, "resize=20 must be at least size=24"),
    ],
)
def test_preset_without_an_equal_names_setting(settings: dict[str, Any], reason: str) -> None:
    preset = ImageClassification(**{"crop_size": 24, "resize_size": 28, **settings})
    with pytest.raises(SourceError, match=f"is not supported: .*{reason}"):
        preset_image(preset)


# ---------------------------------------------------------------------------- Transformers

PROCESSORS: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("ViTImageProcessor", {"size": {"height": 48, "width": 48}}),
    "vit pil": ("ViTImageProcessorPil", {"size": {"height": 48, "width": 48}}),
    "vit lanczos": ("ViTImageProcessor", {"size": {"height": 48, "width": 48}, "resample": 1}),
    "vit nearest": ("ViTImageProcessor", {"size": {"height": 48, "width": 48}, "resample": 0}),
    "beit bicubic": ("BeitImageProcessor", {"size": {"height": 48, "width": 48}}),
    "not rescaled": (
        "ViTImageProcessor",
        {"size": {"height": 48, "width": 48}, "do_rescale": False},
    ),
    "not normalized": (
        "ViTImageProcessor",
        {"size": {"height": 48, "width": 48}, "do_normalize": False},
    ),
    "clip": (
        "CLIPImageProcessor",
        {"size": {"shortest_edge": 57}, "crop_size": {"height": 48, "width": 48}},
    ),
    "clip pil": (
        "CLIPImageProcessorPil",
        {"size": {"shortest_edge": 57}, "crop_size": {"height": 48, "width": 48}},
    ),
    "deit": (
        "DeiTImageProcessor",
        {"size": {"height": 55, "width": 55}, "crop_size": {"height": 48, "width": 48}},
    ),
    "levit": (
        "LevitImageProcessor",
        {"size": {"shortest_edge": 48}, "crop_size": {"height": 48, "width": 48}},
    ),
    "convnext": ("ConvNextImageProcessor", {"size": {"shortest_edge": 48}, "crop_pct": 0.8}),
    "convnext whole": ("ConvNextImageProcessor", {"size": {"shortest_edge": 384}}),
    "poolformer": (
        "PoolFormerImageProcessor",
        {"size": {"shortest_edge": 48}, "crop_size": {"height": 48, "width": 48}},
    ),
    "mobilenet": (
        "MobileNetV2ImageProcessor",
        {"size": {"shortest_edge": 57}, "crop_size": {"height": 48, "width": 48}},
    ),
    "mobilevit bgr": (
        "MobileViTImageProcessor",
        {"size": {"shortest_edge": 57}, "crop_size": {"height": 48, "width": 48}},
    ),
    "efficientnet": ("EfficientNetImageProcessor", {"size": {"height": 48, "width": 48}}),
    "efficientnet offset": (
        "EfficientNetImageProcessor",
        {
            "size": {"height": 57, "width": 57},
            "do_center_crop": True,
            "crop_size": {"height": 48, "width": 48},
            "rescale_factor": 1 / 127.5,
            "rescale_offset": True,
            "include_top": False,
        },
    ),
    "pvt": ("PvtImageProcessor", {"size": {"height": 48, "width": 48}}),
    "siglip": ("SiglipImageProcessor", {"size": {"height": 48, "width": 48}}),
}


def processor_of(name: str, **settings: Any) -> Any:
    return getattr(pytest.importorskip("transformers"), name)(**settings)


@pytest.mark.parametrize(("name", "settings"), PROCESSORS.values(), ids=PROCESSORS)
def test_input_equals_processor_of_transformers(name: str, settings: dict[str, Any]) -> None:
    processor = processor_of(name, **settings)
    image = image_input(processor, "x")
    for size in ((311, 227), (227, 389), (67, 317), (97, 71), (31, 23)):
        theirs = processor(images=picture(*size), return_tensors="np")["pixel_values"][0]
        assert distance(theirs, image_tensor(picture(*size), image)) < 1e-3, size


def test_declared_numbers_are_kept_as_written() -> None:
    image = image_input(processor_of("CLIPImageProcessor", size={"shortest_edge": 224}), "x")
    assert image == ImageInput(
        size=224,
        resize=224,
        mean=(0.48145466, 0.4578275, 0.40821073),
        std=(0.26862954, 0.26130258, 0.27577711),
        interpolation="bicubic",
        resampling="torch",
        crop_offset="down",
    )


def test_processor_of_grey_images_gives_one_channel() -> None:
    processor = processor_of(
        "ViTImageProcessor", size={"height": 28, "width": 28}, image_mean=[0.3], image_std=[0.2]
    )
    image = image_input(processor, "x")
    assert (image.channels, image.mean, image.std) == (1, (0.3,), (0.2,))
    grey = picture(90, 71).convert("L")
    theirs = processor(images=grey, return_tensors="np")["pixel_values"][0]
    assert distance(theirs, image_tensor(grey, image)) < 1e-3


@pytest.mark.parametrize(
    ("name", "settings", "reason"),
    [
        ("ViTImageProcessor", {"do_resize": False}, r"its input is \[3, 300, 400\].*do_resize=Fal"),
        (
            "ViTImageProcessor",
            {"size": {"height": 16, "width": 8}},
            r"its input is \[3, 16, 8\], expected \[3, size, size\] .*'width': 8",
        ),
        ("ViTImageProcessor", {"resample": 4}, "got box.*resample=4"),
        ("ViTImageProcessor", {"image_std": [-0.5] * 3}, r"white gives \[-1\.0, .*image_std=\(-0"),
        (
            "BitImageProcessor",
            {"size": {"shortest_edge": 256, "longest_edge": 300}},
            "comes within 0.* of its spread.*'longest_edge': 300",
        ),
        (
            "MobileViTImageProcessor",
            {"size": {"shortest_edge": 40}, "crop_size": {"height": 48, "width": 48}},
            "resize=40 must be at least size=48",
        ),
        ("PerceiverImageProcessor", {}, "PerceiverImageProcessor: size=.*crop_size="),
        ("Siglip2ImageProcessor", {}, r"its input is \[256, 768\]"),
        ("TextNetImageProcessor", {}, r"its input is \[3, 640, 864\]"),
        ("ImageGPTImageProcessor", {}, "it raised ValueError: Clusters.*do_color_quantize=True"),
        ("PPLCNetImageProcessor", {"size_divisor": 32}, r"model\.image has no size_divisor=32"),
    ],
)
def test_processor_without_an_equal_is_refused(
    name: str, settings: dict[str, Any], reason: str
) -> None:
    with pytest.raises(
        SourceError,
        match=rf"(?s)hf:x: its image preprocessing is not supported: .*{reason}.*"
        r"Nothing was built; declare the closest model\.image",
    ):
        image_input(processor_of(name, **settings), "x")


def test_future_setting_of_processor_is_refused_by_name() -> None:
    transformers = pytest.importorskip("transformers")

    class Sharpened(transformers.ViTImageProcessor):  # type: ignore[misc,name-defined]
        def to_dict(self) -> dict[str, Any]:
            return {**super().to_dict(), "do_sharpen": True}

        def __call__(self, images: Image.Image, **options: Any) -> Any:
            return super().__call__(images=images.filter(ImageFilter.SHARPEN), **options)

    with pytest.raises(SourceError, match=r"model\.image has no do_sharpen=True"):
        image_input(Sharpened(size={"height": 48, "width": 48}), "x")


# ---------------------------------------------------------------------------- ImageInput

SIZES = [(311, 227), (227, 389), (40, 31)]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_torch_resampling_equals_torchvision_on_tensors(
    interpolation: str, size: tuple[int, int]
) -> None:
    image = picture(*size)
    mode = "nearest-exact" if interpolation == "nearest" else interpolation
    expected = functional.resize(
        functional.pil_to_tensor(image),
        [96, 96],
        interpolation=InterpolationMode(mode),
        antialias=True,
    )
    spec = {"size": 96, "interpolation": interpolation, "resampling": "torch", **HALF}
    ours = image_tensor(image, ImageInput.model_validate(spec))
    levels = np.rint((ours * 0.5 + 0.5) * 255)
    assert (levels != expected.numpy()).mean() < (0.02 if interpolation != "nearest" else 1e-9)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_pillow_resampling_equals_torchvision_on_images(
    interpolation: str, size: tuple[int, int]
) -> None:
    image = picture(*size)
    mode = InterpolationMode(interpolation)
    resized = functional.resize(image, [96, 96], interpolation=mode)
    expected = functional.pil_to_tensor(resized).numpy()
    spec = {"size": 96, "interpolation": interpolation, **HALF}
    ours = image_tensor(image, ImageInput.model_validate(spec))
    np.testing.assert_array_equal(np.rint((ours * 0.5 + 0.5) * 255), expected)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("channels", [1, 3])
def test_resizing_without_antialias_equals_torch(
    interpolation: str, size: tuple[int, int], channels: int
) -> None:
    image = picture(*size).convert("L" if channels == 1 else "RGB")
    pixels = functional.pil_to_tensor(image)[None].float()
    expected = torch.nn.functional.interpolate(
        pixels, (96, 96), mode=interpolation, align_corners=False, antialias=False
    )[0]
    spec = {
        "size": 96,
        "interpolation": interpolation,
        "antialias": False,
        "channels": channels,
        "mean": (0.5,) * channels,
        "std": (0.5,) * channels,
    }
    ours = (image_tensor(image, ImageInput.model_validate(spec)) * 0.5 + 0.5) * 255
    # Ours are whole levels, as those of an 8-bit image.
    assert np.abs(ours - expected.clamp(0, 255).numpy()).max() < 0.502


@pytest.mark.parametrize("margin", [0, 1, 2, 3, 5])
def test_crop_offset_rounds_half_a_pixel(margin: int) -> None:
    image = picture(40 + margin, 40)
    pixels = np.asarray(image).transpose(2, 0, 1)
    # torchvision's CenterCrop rounds half to even; Transformers' center_crop rounds down.
    for rounding, left in (("nearest", round(margin / 2)), ("down", int(margin / 2))):
        spec = ImageInput.model_validate(
            {"size": 40, "resize": 40, "crop_offset": rounding, **HALF}
        )
        levels = np.rint((image_tensor(image, spec) * 0.5 + 0.5) * 255)
        np.testing.assert_array_equal(levels, pixels[:, :, left : left + 40])


def test_bgr_reverses_channels_before_mean_and_std() -> None:
    image = picture(32, 32)
    spec = ImageInput(size=32, channel_order="bgr", mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 4.0))
    blue, green, red = image_tensor(image, spec)
    pixels = np.asarray(image, np.float32) / 255
    np.testing.assert_allclose(blue, pixels[..., 2] - 0.1, atol=1e-6)
    np.testing.assert_allclose(green, (pixels[..., 1] - 0.2) / 2, atol=1e-6)
    np.testing.assert_allclose(red, (pixels[..., 0] - 0.3) / 4, atol=1e-6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"interpolation": "box"}, "'nearest', 'bilinear', 'bicubic' or 'lanczos'"),
        ({"interpolation": "lanczos", "antialias": False}, "lanczos needs antialias: true"),
        ({"keep_aspect": False}, "keep_aspect: false needs resize"),
        (
            {"channels": 1, "mean": [0], "std": [1], "channel_order": "bgr"},
            "channel_order bgr needs channels: 3",
        ),
    ],
)
def test_contradicting_image_fields_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ImageInput.model_validate(fields)


def test_image_of_an_older_artifact_keeps_its_meaning() -> None:
    stored = {"size": 24, "resize": 28, "channels": 3, "mean": [0.5] * 3, "std": [0.5] * 3}
    preset = ImageClassification(crop_size=24, resize_size=28, mean=(0.5,) * 3, std=(0.5,) * 3)
    for size in SIZES:
        ours = image_tensor(picture(*size), ImageInput.model_validate(stored))
        np.testing.assert_array_equal(ours, preset(picture(*size)).numpy(), strict=True)

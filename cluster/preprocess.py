"""What a client sends → the model's input arrays, in numpy and PIL only.

image file ──► ImageFile ──► PIL image, upright ──► image_tensor ──► [channels, size, size]
               (size limit,                        (the numbers of torchvision's
                before decoding)                    ImageClassification preset)

text ──► TextEncoder ──► input_ids, attention_mask [max_length]
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Self

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from cluster.config.sources import ImageInput, TextInput
from cluster.errors import ConfigError, PayloadTooLargeError, RequestError

IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
"""Image formats that are read. PIL knows many more, with less trodden decoders."""

MAX_RESIZED_PIXELS = 16 * 2**20
"""Pixels of an image while it is resized: an image of 1 × 10,000,000 would grow without it."""

BAND_PIXELS = 2**20
"""Pixels that are made RGB or grey at a time: transparent ones take 12 bytes each meanwhile."""

_PAD_TOKENS = ("[PAD]", "<pad>")


# ---------------------------------------------------------------------------- images


@dataclass(frozen=True)
class ImageFile:
    """An image file of which the header has been read, and no pixel decoded."""

    image: Image.Image
    file_bytes: int

    @classmethod
    def open(cls, data: bytes, *, max_pixels: int) -> Self:
        """Read the header of an image file.

        PayloadTooLargeError for an image over ``max_pixels`` (width × height), or over PIL's own
        limit (``2 * PIL.Image.MAX_IMAGE_PIXELS``, 179 million by default). RequestError for what
        is none of :data:`IMAGE_FORMATS`, or damaged.
        """
        with _refusing_damage(len(data)):
            try:
                image = Image.open(BytesIO(data), formats=IMAGE_FORMATS)
            except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
                raise PayloadTooLargeError(
                    f"the image is over the limit of {max_pixels} pixels: {error}"
                ) from None
            except UnidentifiedImageError:
                raise RequestError(
                    f"these {len(data)} bytes are no image in any of {', '.join(IMAGE_FORMATS)}"
                ) from None
        opened = cls(image, len(data))
        if opened.pixels > max_pixels:
            raise PayloadTooLargeError(
                f"the image has {image.width} × {image.height} = {opened.pixels} pixels, "
                f"the limit is {max_pixels}"
            )
        return opened

    @property
    def pixels(self) -> int:
        """Width × height, from the header. To decode one takes up to 16 bytes (WebP)."""
        return self.image.width * self.image.height

    def decode(self) -> Image.Image:
        """The image, the first frame of an animated one, turned upright by its EXIF tag.

        RequestError if the file is damaged or truncated. The image has the mode its file says.
        """
        with _refusing_damage(self.file_bytes):
            self.image.load()
            ImageOps.exif_transpose(self.image, in_place=True)
        return self.image


@contextmanager
def _refusing_damage(file_bytes: int) -> Iterator[None]:
    """RequestError for whatever a damaged file leads PIL's decoders to.

    That may be OSError, SyntaxError, ValueError, struct.error, IndexError and others.
    """
    try:
        yield
    except (RequestError, MemoryError):
        raise
    except Exception as error:
        raise RequestError(
            f"the image ({file_bytes} bytes) is damaged or truncated: {error}"
        ) from error


def decode_image(data: bytes, *, max_pixels: int) -> Image.Image:
    """Decode an image file; see :class:`ImageFile`, whose errors it raises."""
    return ImageFile.open(data, max_pixels=max_pixels).decode()


def image_tensor(image: Image.Image, spec: ImageInput) -> np.ndarray:
    """The model's input for one image: float32 ``[channels, size, size]``, C-contiguous.

    The same numbers as torchvision's ``ImageClassification`` transform gives for the PIL image:
    shorter side to ``spec.resize`` (bilinear, antialiased), centre crop to ``spec.size``, scaled
    to 0..1, then ``(x - mean) / std`` in float32. With ``spec.resize`` None the whole image is
    resized to ``size × size`` instead. PayloadTooLargeError when an image is so long and thin
    that resizing would take more than :data:`MAX_RESIZED_PIXELS`.
    """
    image = _resize_and_crop(image, "L" if spec.channels == 1 else "RGB", spec)
    pixels = np.asarray(image, np.uint8).reshape(spec.size, spec.size, spec.channels)
    out = np.empty((spec.channels, spec.size, spec.size), np.float32)
    # One operation at a time, in the order torchvision does them, for the same roundings.
    np.divide(pixels.transpose(2, 0, 1), np.float32(255), out=out, dtype=np.float32)
    out -= np.array(spec.mean, np.float32).reshape(-1, 1, 1)
    out /= np.array(spec.std, np.float32).reshape(-1, 1, 1)
    return out


def _flattened(image: Image.Image, mode: str) -> Image.Image:
    """The image as 8-bit RGB or grey (L), a band of rows after the other."""
    if image.mode == mode and not image.has_transparency_data:
        return image
    rows = max(1, BAND_PIXELS // image.width)
    if image.height <= rows:
        return _flat(image, mode)
    flattened = Image.new(mode, image.size)
    for top in range(0, image.height, rows):
        band = image.crop((0, top, image.width, min(top + rows, image.height)))
        flattened.paste(_flat(band, mode), (0, top))
    return flattened


def _flat(image: Image.Image, mode: str) -> Image.Image:
    """A small image as 8-bit RGB or grey (L).

    Transparent parts become white, as viewers show them: a plain conversion would show the
    colours hidden beneath, often black. 16-bit grey is scaled to 8 bits, where PIL would clip it.
    """
    if image.mode.startswith("I"):
        # value / 257, rounded, in 16 bits. What is over the limit becomes 255 anyway and would
        # overflow with the half of 257 added.
        deep = np.empty((image.height, image.width), np.uint16)
        np.clip(np.asarray(image), 0, 65535 - 128, out=deep, casting="unsafe")
        deep += 128
        deep //= 257
        image = Image.fromarray(deep.astype(np.uint8))
    if image.has_transparency_data:
        top = image.convert("RGBA")
        image = Image.new("RGBA", top.size, "white")
        image.alpha_composite(top)
    return image if image.mode == mode else image.convert(mode)


def _resize_and_crop(image: Image.Image, mode: str, spec: ImageInput) -> Image.Image:
    width, height = image.size
    if spec.resize is None:
        to_width = to_height = spec.size
    else:
        short = min(width, height)
        # int() rounds down, as torchvision does.
        to_width = spec.resize if width == short else int(spec.resize * width / short)
        to_height = spec.resize if height == short else int(spec.resize * height / short)
    # PIL resizes the width first: `to_width × height` stands in between.
    needed = to_width * max(height, to_height)
    if needed > MAX_RESIZED_PIXELS:
        raise PayloadTooLargeError(
            f"an image of {width} × {height} pixels is too long and thin: resizing it to "
            f"{to_width} × {to_height} takes {needed} pixels, the limit is {MAX_RESIZED_PIXELS}"
        )
    image = _flattened(image, mode).resize((to_width, to_height), Image.Resampling.BILINEAR)
    if spec.resize is None:
        return image
    # round() goes to the even neighbour at .5, as torchvision does.
    left = round((to_width - spec.size) / 2)
    top = round((to_height - spec.size) / 2)
    return image.crop((left, top, left + spec.size, top + spec.size))


# ---------------------------------------------------------------------------- text


class TextEncoder:
    """Turns a text into token ids with the model's own tokenizer.

    ``tokenizer_json`` is the content of a Hugging Face ``tokenizer.json``. Texts are cut and
    padded to ``spec.max_length`` with the file's own padding token and sides; without any, with
    ``[PAD]`` or ``<pad>`` on the right, or else id 0 (the attention mask hides it). ConfigError
    when the ``tokenizers`` library is not installed or cannot read the file.
    """

    def __init__(self, tokenizer_json: bytes, spec: TextInput) -> None:
        # Imported here because it is an extra: only text models need it.
        try:
            from tokenizers import Tokenizer
        except ImportError:
            raise ConfigError(
                "text models need the tokenizers library: pip install 'headrace[hf]'"
            ) from None
        try:
            tokenizer = Tokenizer.from_buffer(tokenizer_json)
        except Exception as error:  # tokenizers raises plain Exception
            raise ConfigError(f"tokenizer.json cannot be read: {error}") from error
        truncation = tokenizer.truncation or {}
        tokenizer.enable_truncation(spec.max_length, direction=truncation.get("direction", "right"))
        padding = tokenizer.padding or _default_padding(tokenizer.token_to_id)
        tokenizer.enable_padding(
            length=spec.max_length,
            direction=padding["direction"],
            pad_id=padding["pad_id"],
            pad_token=padding["pad_token"],
        )
        self._tokenizer = tokenizer

    def __call__(self, text: str) -> dict[str, np.ndarray]:
        """``input_ids`` and ``attention_mask`` of one text, both int64 ``[max_length]``."""
        encoding = self._tokenizer.encode(text)
        return {
            "input_ids": np.array(encoding.ids, np.int64),
            "attention_mask": np.array(encoding.attention_mask, np.int64),
        }


def _default_padding(token_to_id: Callable[[str], int | None]) -> dict[str, Any]:
    for token in _PAD_TOKENS:
        token_id = token_to_id(token)
        if token_id is not None:
            return {"direction": "right", "pad_id": token_id, "pad_token": token}
    return {"direction": "right", "pad_id": 0, "pad_token": _PAD_TOKENS[0]}

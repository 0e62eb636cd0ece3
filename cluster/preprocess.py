"""Preprocessing: a client's image or text → the model's input arrays, in numpy and PIL only.

image file ──► ImageFile ──► PIL image, upright ──► image_tensor ──► [channels, size, size]
               (size limit,                        (equal to torchvision's
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
"""Supported image formats. PIL knows many more, whose decoders are less tested."""

MAX_RESIZED_PIXELS = 16 * 2**20
"""Maximum pixels during resizing: an image of 1 × 10,000,000 would otherwise grow."""

BAND_PIXELS = 2**20
"""Pixels converted to RGB or grey at a time: transparent ones need 12 bytes each."""

_PAD_TOKENS = ("[PAD]", "<pad>")


# ---------------------------------------------------------------------------- images


@dataclass(frozen=True)
class ImageFile:
    """Image file with its header read, and no pixel decoded."""

    image: Image.Image
    file_bytes: int

    @classmethod
    def open(cls, data: bytes, *, max_pixels: int) -> Self:
        """Read the header of an image file.

        PayloadTooLargeError for an image over ``max_pixels`` (width × height), or over PIL's own
        limit (``2 * PIL.Image.MAX_IMAGE_PIXELS``, 179 million by default). RequestError for a
        format outside :data:`IMAGE_FORMATS`, or a damaged file.
        """
        with _converted_errors(len(data)):
            try:
                image = Image.open(BytesIO(data), formats=IMAGE_FORMATS)
            except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
                raise PayloadTooLargeError(
                    f"the image is over the limit of {max_pixels} pixels: {error}"
                ) from None
            except UnidentifiedImageError:
                raise RequestError(
                    f"these {len(data)} bytes are not an image of a supported format: "
                    f"{', '.join(IMAGE_FORMATS)}"
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
        """Width × height, from the header. Decoding a pixel takes up to 16 bytes (WebP)."""
        return self.image.width * self.image.height

    def decode(self) -> Image.Image:
        """Decode the image, the first frame of an animated one, upright by its EXIF tag.

        RequestError if the file is damaged or truncated. The mode is that of the file.
        """
        with _converted_errors(self.file_bytes):
            self.image.load()
            ImageOps.exif_transpose(self.image, in_place=True)
        return self.image


@contextmanager
def _converted_errors(file_bytes: int) -> Iterator[None]:
    """Convert errors of PIL's decoders on damaged files to RequestError.

    These may be OSError, SyntaxError, ValueError, struct.error, IndexError and others.
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
    """Decode an image file; raises as :class:`ImageFile` does."""
    return ImageFile.open(data, max_pixels=max_pixels).decode()


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


def _flatten(image: Image.Image, mode: str) -> Image.Image:
    """Return the image as 8-bit RGB or grey (L), converted in bands of rows."""
    if image.mode == mode and not image.has_transparency_data:
        return image
    rows = max(1, BAND_PIXELS // image.width)
    if image.height <= rows:
        return _flatten_band(image, mode)
    flattened = Image.new(mode, image.size)
    for top in range(0, image.height, rows):
        band = image.crop((0, top, image.width, min(top + rows, image.height)))
        flattened.paste(_flatten_band(band, mode), (0, top))
    return flattened


def _flatten_band(image: Image.Image, mode: str) -> Image.Image:
    """Return a small image as 8-bit RGB or grey (L).

    Transparent parts become white, as in viewers: a plain conversion would show the hidden
    colours, often black. 16-bit grey is scaled to 8 bits, where PIL would clip it.
    """
    if image.mode.startswith("I"):
        # value / 257, rounded, in 16 bits. Values over the limit become 255 anyway, and would
        # overflow with half of 257 added.
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
    image = _flatten(image, mode).resize((to_width, to_height), Image.Resampling.BILINEAR)
    if spec.resize is None:
        return image
    # round() rounds half to even, like torchvision.
    left = round((to_width - spec.size) / 2)
    top = round((to_height - spec.size) / 2)
    return image.crop((left, top, left + spec.size, top + spec.size))


# ---------------------------------------------------------------------------- text


class TextEncoder:
    """Encoder of texts to token ids, with the model's own tokenizer.

    ``tokenizer_json``: content of a Hugging Face ``tokenizer.json``. Texts are truncated and padded
    to ``spec.max_length`` with the file's padding token and sides; by default with ``[PAD]`` or
    ``<pad>`` on the right, or else id 0 (hidden by the attention mask). ConfigError when the
    ``tokenizers`` library is not installed or cannot read the file.
    """

    def __init__(self, tokenizer_json: bytes, spec: TextInput) -> None:
        # Imported here: an extra that only text models need.
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
        """Return ``input_ids`` and ``attention_mask`` of one text, both int64 ``[max_length]``."""
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

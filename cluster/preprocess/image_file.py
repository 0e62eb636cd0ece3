"""An image file: header and limits first, then its pixels, upright.

bytes ─ open ─→ size limit ─ decode ─→ PIL image ─ orientation ─→ upright
          ↘ refused ↙          ↘ refused ↙
   repair.readable: without metadata    repair.completed: a short end filled

A file is repaired only if PIL refuses it, so whole files cost nothing more.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Self

from PIL import Image, UnidentifiedImageError

from cluster.errors import PayloadTooLargeError, RequestError
from cluster.preprocess import repair
from cluster.preprocess.orientation import orientation_in

IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
"""Supported image formats. PIL knows many more, whose decoders are less tested."""

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Orientation → the operation that turns the stored picture upright. 1 is upright."""


@dataclass(frozen=True)
class ImageFile:
    """Image file with its header read, and no pixel decoded."""

    image: Image.Image
    content: bytes

    @classmethod
    def open(cls, data: bytes, *, max_pixels: int) -> Self:
        """Read the header of an image file; its metadata may be damaged.

        PayloadTooLargeError for an image over ``max_pixels`` (width × height), or over PIL's own
        limit (``2 * PIL.Image.MAX_IMAGE_PIXELS``, 179 million by default). RequestError for a
        format outside :data:`IMAGE_FORMATS`, or a damaged file.
        """
        try:
            image = _header(data, max_pixels)
        except PayloadTooLargeError:
            raise
        except RequestError as error:
            readable = repair.readable(data)
            if readable is None:
                raise
            try:
                return cls(_header(readable, max_pixels), readable)
            except PayloadTooLargeError:
                raise
            except RequestError:
                raise error from None
        return cls(image, data)

    @property
    def pixels(self) -> int:
        """Width × height, from the header. Decoding a pixel takes up to 16 bytes (WebP)."""
        return self.image.width * self.image.height

    def decode(self) -> Image.Image:
        """Decode the image, the first frame of an animated one, upright by its EXIF orientation.

        Pictures that lack a little of their end are completed, as in viewers; see
        :func:`cluster.preprocess.repair.completed`. RequestError if the file is damaged or lacks
        more. The mode is that of the file.
        """
        try:
            image = self._loaded(self.image)
        except RequestError as error:
            image = self._completed(error)
        exif = image.info.get("exif")
        turn = _UPRIGHT.get(orientation_in(exif)) if isinstance(exif, bytes) else None
        return image if turn is None else image.transpose(turn)

    def _loaded(self, image: Image.Image) -> Image.Image:
        with _converted_errors(len(self.content)):
            image.load()
        return image

    def _completed(self, refusal: RequestError) -> Image.Image:
        """Return the decoded picture of the completed file; else raise ``refusal``."""
        content = repair.completed(self.content)
        if content is None:
            raise refusal
        try:
            image = self._loaded(_header(content, self.pixels))
        except RequestError:
            raise refusal from None
        if image.size != self.image.size or not repair.is_almost_whole(image):
            raise refusal
        return image


def decode_image(data: bytes, *, max_pixels: int) -> Image.Image:
    """Decode an image file; raises as :class:`ImageFile` does."""
    return ImageFile.open(data, max_pixels=max_pixels).decode()


def _header(data: bytes, max_pixels: int) -> Image.Image:
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
    if image.width * image.height > max_pixels:
        raise PayloadTooLargeError(
            f"the image has {image.width} × {image.height} = {image.width * image.height} pixels, "
            f"the limit is {max_pixels}"
        )
    return image


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

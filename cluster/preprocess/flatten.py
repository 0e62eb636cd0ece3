"""An image of any mode → 8-bit RGB or grey, as a viewer shows it on white."""

from __future__ import annotations

import numpy as np
from PIL import Image

BAND_PIXELS = 2**20
"""Pixels converted to RGB or grey at a time: transparent ones need 12 bytes each."""


def flatten(image: Image.Image, mode: str) -> Image.Image:
    """Return the image as 8-bit RGB or grey (L), converted in bands of rows."""
    if image.mode == mode and not image.has_transparency_data:
        return image
    rows = max(1, BAND_PIXELS // image.width)
    if image.height <= rows:
        return _band(image, mode)
    flattened = Image.new(mode, image.size)
    for top in range(0, image.height, rows):
        band = image.crop((0, top, image.width, min(top + rows, image.height)))
        flattened.paste(_band(band, mode), (0, top))
    return flattened


def _band(image: Image.Image, mode: str) -> Image.Image:
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

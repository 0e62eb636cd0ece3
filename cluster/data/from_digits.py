"""``digits``: the 1,797 handwritten digits bundled with scikit-learn, as PNG files in memory."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from PIL import Image

from cluster import fingerprint
from cluster.data.samples import LabelledSet, ListItems, labelled_set

_MAX_GREY = 16
"""Highest of scikit-learn's grey levels, which start at 0."""


def read(_: str) -> LabelledSet:
    """Return 8×8 grey PNG files with levels 0..255, labelled "0" to "9"."""
    # Imported here: it is slow, and only this source needs it.
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.rint(digits.images * (255 / _MAX_GREY)).astype(np.uint8)
    labels = digits.target.astype(np.int64)
    names = tuple(str(name) for name in digits.target_names)
    # Of the pixels, not the files: other zlib versions write different PNG files.
    identity = fingerprint.of_parts([pixels, labels])
    items = ListItems([_png(image) for image in pixels], "digits")
    return labelled_set(items, labels, names, identity, "digits")


def _png(pixels: np.ndarray) -> bytes:
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()

"""``digits``: the 1,797 handwritten digits bundled with scikit-learn, as PNG files in memory."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from PIL import Image

from cluster import fingerprint
from cluster.data.samples import LabelledSet, ListItems, labelled_set

_DARKEST = 16
"""scikit-learn's grey levels run from 0 to 16."""


def read(_: str) -> LabelledSet:
    """8×8 grey PNG files with levels 0..255, labelled "0" to "9"."""
    # Imported here because it is slow to import, and only this source needs it.
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.rint(digits.images * (255 / _DARKEST)).astype(np.uint8)
    labels = digits.target.astype(np.int64)
    names = tuple(str(name) for name in digits.target_names)
    # Of the pixels, not the files: another zlib would write other PNG files of the same pixels.
    identity = fingerprint.of_parts([pixels, labels])
    items = ListItems([_png(image) for image in pixels], "digits")
    return labelled_set(items, labels, names, identity, "digits")


def _png(pixels: np.ndarray) -> bytes:
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()

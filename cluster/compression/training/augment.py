"""Random changes of training images that keep their label, by name.

    batch of images + random numbers per image → augmented images

The caller draws the random numbers for the whole batch, so several processes that share a batch
change each image like a single process.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from cluster.errors import CompressionError

DRAWS = 2
"""Number of random numbers for each augmentation and image."""


def flip(images: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Mirror each image left to right with probability ½."""
    chosen = draws[:, 0] < 0.5
    flipped = images.copy()
    flipped[chosen] = images[chosen, :, :, ::-1]
    return flipped


def crop(images: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Shift each image by up to an eighth of its size in each direction, padded with zeros.

    He et al. 2016, "Deep Residual Learning", section 4.2: 4 pixels of 32.
    """
    height, width = images.shape[2:]
    most = np.array([height // 8, width // 8])
    padded = np.pad(images, ((0, 0), (0, 0), (most[0],) * 2, (most[1],) * 2))
    offsets = np.floor(draws * (2 * most + 1)).astype(np.int64)
    shifted = np.empty_like(images)
    for row, (top, left) in enumerate(offsets):
        shifted[row] = padded[row, :, top : top + height, left : left + width]
    return shifted


AUGMENTATIONS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "flip": flip,
    "crop": crop,
}
"""Images float32 ``[N, channels, height, width]`` and uniform numbers 0..1 ``[N, DRAWS]`` →
images of that shape."""


def augment(arrays: list[np.ndarray], names: Sequence[str], draws: np.ndarray) -> list[np.ndarray]:
    """Apply the augmentations ``names``, in order, to the one image input in ``arrays``.

    ``draws``: uniform numbers 0..1, ``[N, len(names), DRAWS]``.
    """
    for position, name in enumerate(names):
        arrays = [AUGMENTATIONS[name](arrays[0], draws[:, position])]
    return arrays


def check(arrays: list[np.ndarray], names: Sequence[str]) -> None:
    """Raise CompressionError for an augmentation of ``arrays`` that are not one batch of images."""
    if names and (len(arrays) != 1 or arrays[0].ndim != 4 or arrays[0].dtype != np.float32):
        inputs = ", ".join(f"{array.dtype}{list(array.shape[1:])}" for array in arrays)
        raise CompressionError(
            f"augmentation {', '.join(names)} changes images, float32 [channels, height, width]; "
            f"the model takes {inputs}. Remove augmentation"
        )

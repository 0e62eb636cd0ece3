"""Image files → a model's input, in threads, and never many large ones at a time.

    file → a thread: header ┬ small → decoded there
                            └ large → one of LARGE_AT_ONCE threads, decoded there

A file of 40 bytes may say that it has 25 million pixels, and its decoder takes 400 MB for them.
As many at a time as there are requests would end the replica.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from cluster.config.sources import ImageInput
from cluster.preprocess import ImageFile, image_tensor

SMALL_PIXELS = 2**20
"""Pixels of an image that is decoded at once, however many others are."""

LARGE_AT_ONCE = 2
"""Larger images that are decoded at a time, in the whole process."""

# Its threads and no semaphore: a client that has gone takes its request away, not the decoder that
# is at work for it.
_large = ThreadPoolExecutor(LARGE_AT_ONCE, thread_name_prefix="large-image")


async def read_image(data: bytes, spec: ImageInput, max_pixels: int) -> np.ndarray:
    """The input ``[channels, size, size]`` for an image file.

    Raises what :class:`cluster.preprocess.ImageFile` and
    :func:`cluster.preprocess.image_tensor` raise.
    """
    read = await asyncio.to_thread(_read_small, data, spec, max_pixels)
    if isinstance(read, ImageFile):
        return await asyncio.get_running_loop().run_in_executor(_large, _decoded, read, spec)
    return read


def _read_small(data: bytes, spec: ImageInput, max_pixels: int) -> np.ndarray | ImageFile:
    """The input for a small image; a large one with only its header read."""
    file = ImageFile.open(data, max_pixels=max_pixels)
    return file if file.pixels > SMALL_PIXELS else _decoded(file, spec)


def _decoded(file: ImageFile, spec: ImageInput) -> np.ndarray:
    return image_tensor(file.decode(), spec)

"""Decoding of image files into a model's input, in threads, with few large images at once.

    file → a thread: header ┬ small → decoded there
                            └ large → decoded by one of LARGE_AT_ONCE threads

A file of 40 bytes may declare 25 million pixels, which cost its decoder 400 MB. One decoder for
every request in flight would exhaust the replica's memory.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from cluster.config.sources import ImageInput
from cluster.preprocess import ImageFile, image_tensor

SMALL_PIXELS = 2**20
"""Largest image that is decoded without a limit on concurrency, in pixels."""

LARGE_AT_ONCE = 2
"""Larger images that the process decodes at once."""

# Threads rather than a semaphore: a client that disconnects cancels its request, but not the
# decoder that is running for it.
_large = ThreadPoolExecutor(LARGE_AT_ONCE, thread_name_prefix="large-image")


async def read_image(data: bytes, spec: ImageInput, max_pixels: int) -> np.ndarray:
    """Return the input ``[channels, size, size]`` of an image file.

    Raises the errors of :class:`cluster.preprocess.ImageFile` and
    :func:`cluster.preprocess.image_tensor`.
    """
    image = await asyncio.to_thread(_read_small, data, spec, max_pixels)
    if isinstance(image, ImageFile):
        return await asyncio.get_running_loop().run_in_executor(_large, _decoded, image, spec)
    return image


def _read_small(data: bytes, spec: ImageInput, max_pixels: int) -> np.ndarray | ImageFile:
    """Return the input of a small image; of a large one the file, with its header read."""
    file = ImageFile.open(data, max_pixels=max_pixels)
    return file if file.pixels > SMALL_PIXELS else _decoded(file, spec)


def _decoded(file: ImageFile, spec: ImageInput) -> np.ndarray:
    return image_tensor(file.decode(), spec)

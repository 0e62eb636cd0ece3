"""Decoding of images: two large ones at once, whatever clients do; small ones without waiting."""

from __future__ import annotations

import asyncio
import threading
import time
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from cluster import preprocess
from cluster.config.sources import ImageInput
from cluster.errors import PayloadTooLargeError, RequestError
from deployments.model import images

SPEC = ImageInput(size=8)
LIMIT = 2_000_000


def png(width: int, height: int) -> bytes:
    file = BytesIO()
    Image.new("RGB", (width, height), "red").save(file, "PNG")
    return file.getvalue()


LARGE, SMALL = png(1200, 1000), png(40, 30)


class Decoding:
    """Decoder that counts its concurrent large images and takes long for them."""

    def __init__(self) -> None:
        self.peak = 0
        self.done = 0
        self._now = 0
        self._lock = threading.Lock()

    def __call__(self, image: Image.Image, spec: ImageInput) -> np.ndarray:
        if image.width * image.height <= images.SMALL_PIXELS:
            return preprocess.image_tensor(image, spec)
        with self._lock:
            self._now += 1
            self.peak = max(self.peak, self._now)
        time.sleep(0.05)
        with self._lock:
            self._now -= 1
            self.done += 1
        return preprocess.image_tensor(image, spec)


@pytest.fixture
def decoding(monkeypatch: pytest.MonkeyPatch) -> Decoding:
    decoder = Decoding()
    monkeypatch.setattr(images, "image_tensor", decoder)
    return decoder


def test_large_images_wait_but_small_ones_do_not(decoding: Decoding) -> None:
    async def run() -> tuple[list[np.ndarray], int]:
        large = [asyncio.create_task(images.read_image(LARGE, SPEC, LIMIT)) for _ in range(8)]
        await asyncio.sleep(0.02)
        for _ in range(4):
            await images.read_image(SMALL, SPEC, LIMIT)
        done_before_small = decoding.done
        return await asyncio.gather(*large), done_before_small

    answers, done_before_small = asyncio.run(run())
    assert decoding.peak == images.LARGE_AT_ONCE
    assert done_before_small < 8
    expected = preprocess.image_tensor(Image.new("RGB", (4, 4), "red"), SPEC)
    assert len(answers) == 8
    for answer in answers:
        np.testing.assert_array_equal(answer, expected)


def test_disconnected_clients_do_not_raise_decoder_limit(decoding: Decoding) -> None:
    async def run() -> None:
        for _ in range(6):
            reads = [asyncio.create_task(images.read_image(LARGE, SPEC, LIMIT)) for _ in range(3)]
            await asyncio.sleep(0.02)
            for read in reads:
                read.cancel()
            await asyncio.gather(*reads, return_exceptions=True)

    asyncio.run(run())
    assert decoding.peak <= images.LARGE_AT_ONCE


@pytest.mark.parametrize(
    ("data", "error"),
    [(png(2000, 1001), PayloadTooLargeError), (LARGE[:-2000], RequestError), (b"x", RequestError)],
)
def test_unreadable_image_is_rejected(data: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        asyncio.run(images.read_image(data, SPEC, LIMIT))

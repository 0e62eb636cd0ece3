"""Picture files that viewers show although a part is damaged: read like the same picture, whole.

The right value is always the picture of the undamaged file, as PIL decodes it.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cluster.config.sources import ImageInput
from cluster.errors import PayloadTooLargeError, RequestError
from cluster.preprocess import decode_image, image_tensor

MAX_PIXELS = 1_000_000


def picture(width: int = 150, height: int = 100, mode: str = "RGB") -> Image.Image:
    """Return waves of colour with noise: no row is plain, as in a photograph."""
    rng = np.random.default_rng(width * 1000 + height)
    y, x = np.mgrid[0:height, 0:width]
    waves = [60 * np.sin(x / 9), 50 * np.cos(y / 5), 40 * np.sin((x + y) / 7)]
    noisy = 120 + np.stack(waves, axis=-1) + rng.normal(0, 10, (height, width, 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).convert(mode)


def encoded(image: Image.Image, image_format: str, **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, image_format, **options)
    return file.getvalue()


def rgb(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB"), int)


def read(data: bytes) -> Image.Image:
    return decode_image(data, max_pixels=MAX_PIXELS)


def plainly_read(data: bytes) -> Image.Image:
    return Image.open(BytesIO(data))


# ---------------------------------------------------------------------------- EXIF


def exif_photo(entries: list[tuple[int, int, int, bytes]], tail: bytes, order: str = "<") -> bytes:
    """Return a JPEG of 150 × 100 whose EXIF block has ``entries``: tag, type, count, value."""
    raw = encoded(picture(), "JPEG")
    tiff = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}IH", 8, len(entries))
    for tag, kind, count, value in entries:
        tiff += struct.pack(f"{order}HHI", tag, kind, count) + value
    block = b"Exif\0\0" + tiff + bytes(4) + tail
    return raw[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + raw[2:]


TURNED = (0x0112, 3, 1, struct.pack("<HH", 6, 0))
AT_TAIL = struct.pack("<I", 8 + 2 + 24 + 4)
ODD_ENTRIES = {
    "resolution of -1/0": ((0x011A, 10, 1, AT_TAIL), struct.pack("<ii", -1, 0)),
    "maker as a fraction": ((0x010F, 5, 1, AT_TAIL), b"Maker\0\0\0"),
    "text outside the block": ((0x010E, 2, 900, struct.pack("<I", 70_000)), b""),
    "unknown type": ((0x9003, 77, 3, AT_TAIL), b""),
    "huge count": ((0x927C, 7, 2**32 - 1, AT_TAIL), b"\xff" * 8),
    "directory of itself": ((0x8769, 4, 1, struct.pack("<I", 8)), b""),
    "text that is no text": ((0x010E, 2, 8, AT_TAIL), b"\xff\xfe\x80\x81\xff\xfe\x80\x81"),
    "a second orientation": ((0x0112, 3, 1, struct.pack("<HH", 1, 0)), b""),
}


@pytest.mark.parametrize(("entry", "tail"), ODD_ENTRIES.values(), ids=ODD_ENTRIES)
@pytest.mark.filterwarnings("ignore")
def test_orientation_is_read_beside_odd_entries(
    entry: tuple[int, int, int, bytes], tail: bytes
) -> None:
    image = read(exif_photo([TURNED, entry], tail))
    expected = np.rot90(rgb(plainly_read(encoded(picture(), "JPEG"))), -1)
    np.testing.assert_array_equal(rgb(image), expected)


@pytest.mark.parametrize(
    ("entry", "order", "turned"),
    [
        ((0x0112, 3, 1, struct.pack(">HH", 6, 0)), ">", True),
        ((0x0112, 4, 1, struct.pack("<I", 6)), "<", True),
        ((0x0112, 3, 1, struct.pack("<HH", 9, 0)), "<", False),
        ((0x0112, 3, 1, struct.pack("<HH", 0, 0)), "<", False),
        ((0x0112, 2, 1, b"6\0\0\0"), "<", False),
        ((0x0113, 3, 1, struct.pack("<HH", 6, 0)), "<", False),
    ],
    ids=["big endian", "long", "9", "0", "text", "another tag"],
)
def test_only_valid_orientations_turn(
    entry: tuple[int, int, int, bytes], order: str, turned: bool
) -> None:
    assert read(exif_photo([entry], b"", order)).size == ((100, 150) if turned else (150, 100))


@pytest.mark.parametrize("length", range(0, 40, 3))
@pytest.mark.filterwarnings("ignore")
def test_exif_cut_short_leaves_picture_upright(length: int) -> None:
    raw = encoded(picture(), "JPEG")
    block = (b"Exif\0\0II*\0" + struct.pack("<IHHHI", 8, 5, 0x0112, 3, 1))[:length]
    data = raw[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + raw[2:]
    assert read(data).size == (150, 100)


# ---------------------------------------------------------------------------- metadata


def segment(code: int, body: bytes) -> bytes:
    return bytes((0xFF, code)) + struct.pack(">H", len(body) + 2) + body


ODD_SEGMENTS = {
    "JFIF too short": segment(0xE0, b"JFIF\0"),
    "EXIF of garbage": segment(0xE1, b"Exif\0\0" + b"\xa5" * 300),
    "several pictures, garbage": segment(0xE2, b"MPF\0" + b"MM\0*" + b"\x7f" * 60),
    "several pictures, wrong places": segment(
        0xE2,
        b"MPF\0II*\0"
        + struct.pack("<IH", 8, 2)
        + struct.pack("<HHII", 0xB001, 4, 1, 2)
        + struct.pack("<HHII", 0xB002, 7, 32, 38)
        + bytes(4)
        + struct.pack("<LLLHH", 0x20030000, 10, 0, 0, 0)
        + struct.pack("<LLLHH", 0, 10, 2**31, 0, 0),
    ),
    "profile of garbage": segment(0xE2, b"ICC_PROFILE\0\x01\x01" + b"\x99" * 50),
    "profile without its number": segment(0xE2, b"ICC_PROFILE\0"),
    "Photoshop cut short": segment(0xED, b"Photoshop 3.0\x008BIM\x04"),
    "Photoshop resolution cut short": segment(
        0xED, b"Photoshop 3.0\x008BIM\x03\xed\0\0\0\0\0\x02\0\0"
    ),
    "Adobe cut short": segment(0xEE, b"Adobe\0"),
    "comment": segment(0xFE, b"\xff" * 40),
    "bytes between segments": b"\x00\x12\x34",
}


@pytest.mark.parametrize("odd", ODD_SEGMENTS.values(), ids=ODD_SEGMENTS)
@pytest.mark.filterwarnings("ignore")
def test_jpeg_segments_that_viewers_ignore_are_ignored(odd: bytes) -> None:
    raw = encoded(picture(), "JPEG")
    turned = exif_photo([TURNED], b"")
    first = 4 + struct.unpack_from(">H", raw, 4)[0]  # the end of the first segment
    np.testing.assert_array_equal(
        rgb(read(raw[:first] + odd + raw[first:])), rgb(plainly_read(raw))
    )
    expected = np.rot90(rgb(plainly_read(raw)), -1)
    end = 4 + struct.unpack_from(">H", turned, 4)[0]  # of the EXIF segment
    np.testing.assert_array_equal(rgb(read(turned[:end] + odd + turned[end:])), expected)


def chunks(data: bytes) -> Iterator[bytes]:
    at = 8
    while at < len(data):
        end = at + 12 + struct.unpack_from(">I", data, at)[0]
        yield data[at:end]
        at = end


def chunk(kind: bytes, body: bytes, *, right: bool = True) -> bytes:
    checksum = zlib.crc32(kind + body) ^ (0 if right else 1)
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)


def with_chunk(data: bytes, odd: bytes, *, after_pixels: bool) -> bytes:
    header, *pixels, end = chunks(data)
    parts = [header, *pixels, odd, end] if after_pixels else [header, odd, *pixels, end]
    return data[:8] + b"".join(parts)


ODD_CHUNKS = {
    "text with a wrong checksum": chunk(b"tEXt", b"Comment\0hello", right=False),
    "text without a name": chunk(b"tEXt", b"\xff\xfe"),
    "compressed text of garbage": chunk(b"zTXt", b"Comment\0\0garbage"),
    "compressed text, unknown way": chunk(b"zTXt", b"Comment\0\x07garbage"),
    "international text cut short": chunk(b"iTXt", b"Comment\0"),
    "text that expands": chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(2**26))),
    "profile cut short": chunk(b"iCCP", b"icc"),
    "profile, unknown way": chunk(b"iCCP", b"icc\0\x07garbage"),
    "profile with a wrong checksum": chunk(b"iCCP", b"icc\0\0" + zlib.compress(b"x"), right=False),
    "gamma cut short": chunk(b"gAMA", b"\0"),
    "size cut short": chunk(b"pHYs", b"\0\0"),
    "colours cut short": chunk(b"cHRM", b"\0\0\0"),
    "time": chunk(b"tIME", b""),
    "transparency of a wrong length": chunk(b"tRNS", b"\0"),
    "transparency with a wrong checksum": chunk(b"tRNS", bytes(6), right=False),
    "animation cut short": chunk(b"acTL", b"\0\0"),
    "frame outside": chunk(b"fcTL", struct.pack(">IIIIIHHBB", 9, 900, 900, 9, 9, 1, 1, 0, 0)),
    "unknown": chunk(b"vpAg", b"\xa5" * 30, right=False),
}


@pytest.mark.parametrize("after_pixels", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("odd", ODD_CHUNKS.values(), ids=ODD_CHUNKS)
@pytest.mark.filterwarnings("ignore")
def test_png_chunks_that_viewers_ignore_are_ignored(odd: bytes, after_pixels: bool) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = with_chunk(encoded(picture(), "PNG", exif=exif), odd, after_pixels=after_pixels)
    np.testing.assert_array_equal(rgb(read(data)), np.rot90(rgb(picture()), -1))


def test_png_exif_of_garbage_leaves_picture_upright() -> None:
    odd = chunk(b"eXIf", b"\xa5" * 30)
    data = with_chunk(encoded(picture(), "PNG"), odd, after_pixels=False)
    np.testing.assert_array_equal(rgb(read(data)), rgb(picture()))


def test_transparency_survives_damaged_text() -> None:
    palette = picture(mode="P")
    data = encoded(palette, "PNG", transparency=bytes(range(256)))
    odd = with_chunk(data, ODD_CHUNKS["text with a wrong checksum"], after_pixels=False)
    spec = ImageInput(size=32)
    expected = image_tensor(read(data), spec)
    np.testing.assert_array_equal(image_tensor(read(odd), spec), expected)
    assert np.abs(expected - image_tensor(palette.convert("RGB"), spec)).mean() > 0.1


# ---------------------------------------------------------------------------- cut short

FORMATS: dict[str, tuple[str, dict[str, Any], str]] = {
    "jpeg": ("JPEG", {}, "RGB"),
    "jpeg grey": ("JPEG", {}, "L"),
    "jpeg cmyk": ("JPEG", {}, "CMYK"),
    "jpeg 4:4:4": ("JPEG", {"subsampling": 0, "quality": 95}, "RGB"),
    "jpeg restarts": ("JPEG", {"restart_marker_rows": 1}, "RGB"),
    "jpeg progressive": ("JPEG", {"progressive": True}, "RGB"),
    "png": ("PNG", {}, "RGB"),
    "png grey and alpha": ("PNG", {}, "LA"),
    "png 1 bit": ("PNG", {}, "1"),
    "png palette": ("PNG", {}, "P"),
    "webp": ("WEBP", {}, "RGB"),
    "webp lossless": ("WEBP", {"lossless": True}, "RGBA"),
    "bmp": ("BMP", {}, "RGB"),
    "gif": ("GIF", {}, "P"),
}
a_format = pytest.mark.parametrize(("name", "options", "mode"), FORMATS.values(), ids=FORMATS)


@a_format
def test_file_without_its_last_two_bytes_is_whole(
    name: str, options: dict[str, Any], mode: str
) -> None:
    data = encoded(picture(mode=mode), name, **options)
    image, whole = read(data[:-2]), plainly_read(data)
    assert (image.size, image.mode) == (whole.size, whole.mode)
    # Formats without an end marker lose up to the last pixel.
    assert (rgb(image) != rgb(whole)).any(axis=2).sum() <= 4


@a_format
def test_file_that_lacks_a_little_shows_the_rest(
    name: str, options: dict[str, Any], mode: str
) -> None:
    data = encoded(picture(mode=mode), name, **options)
    image, whole = read(data[: -len(data) // 20]), plainly_read(data)
    rows = np.abs(rgb(image) - rgb(whole)).mean(axis=(1, 2))
    if options.get("progressive"):  # its end refines all rows a little
        assert 0 < rows.mean() < 4
    elif name == "BMP":  # stored from the bottom up
        assert (rows[10:] == 0).all()
    else:
        assert (rows[:84] == 0).all()


@a_format
@pytest.mark.parametrize("share", [0.25, 0.5, 0.9])
def test_file_that_lacks_much_is_refused(
    name: str, options: dict[str, Any], mode: str, share: float
) -> None:
    data = encoded(picture(mode=mode), name, **options)
    if options.get("progressive"):
        share = max(share, 0.5)  # a quarter is less than its last scan, which refines one bit
    with pytest.raises(RequestError, match=r"truncated|not an image"):
        read(data[: int(len(data) * (1 - share))])


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("bits", [1, 8, 16])
def test_missing_png_rows_repeat_the_last_row(interlaced: bool, bits: int) -> None:
    # Written by hand: PIL writes no interlaced files.
    rows = np.random.default_rng(3).integers(0, 256, (64, 64 * bits // 8), np.uint8)
    passes = [(0, 0, 1, 1)]
    if interlaced:
        passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4)]
        passes += [(1, 0, 2, 2), (0, 1, 1, 2)]
    samples = np.unpackbits(rows, axis=1).reshape(64, 64, bits)
    raw = b"".join(
        b"\0" + np.packbits(line.reshape(-1)).tobytes()
        for left, top, across, down in passes
        for line in samples[top::down, left::across]
    )
    header = struct.pack(">IIBBBBB", 64, 64, bits, 0, 0, 0, int(interlaced))

    def file(body: bytes) -> bytes:
        return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body)

    whole = np.asarray(read(file(zlib.compress(raw)) + chunk(b"IEND", b"")), int)
    deflate = zlib.compressobj(0)  # stored, so that the cut is at a known byte
    body = deflate.compress(raw) + deflate.flush()
    missing = len(raw) // 12
    image = np.asarray(read(file(body[: len(body) - missing - 4])), int)
    if interlaced:  # of the last pass, every second row
        assert (image[::2] == whole[::2]).all()
        assert (image[1:40:2] == whole[1:40:2]).all()
    else:
        count = 64 - missing // (1 + 8 * bits) - 1
        assert (image[:count] == whole[:count]).all()
        assert (image[count + 1 :] == image[count]).all()


def test_wrong_checksum_of_png_pixels_is_ignored() -> None:
    data = encoded(picture(), "PNG")
    header, *pixels, _ = chunks(data)
    body = b"".join(part[8:-4] for part in pixels)
    odd = data[:8] + header + chunk(b"IDAT", body[:-4] + b"\0\0\0\0", right=False)
    np.testing.assert_array_equal(rgb(read(odd)), rgb(picture()))


# ---------------------------------------------------------------------------- limits


def test_repaired_header_is_held_to_pixel_limit() -> None:
    data = with_chunk(
        encoded(picture(), "PNG"), ODD_CHUNKS["text with a wrong checksum"], after_pixels=False
    )
    with pytest.raises(PayloadTooLargeError, match="150 × 100 = 15000 pixels, the limit is 14999"):
        decode_image(data, max_pixels=14_999)
    assert decode_image(data, max_pixels=15_000).size == (150, 100)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data.replace(b"\xff\xdb", b"\xff\xfe"),  # no quantization tables
        lambda data: data[:300],
        lambda data: data[:2] + data[-2:],
        lambda data: b"\xff\xd8\xff" * 100,
    ],
)
def test_damaged_jpeg_stays_refused(damage: Callable[[bytes], bytes]) -> None:
    with pytest.raises(RequestError, match=r"damaged or truncated|not an image"):
        read(damage(encoded(picture(), "JPEG")))


@pytest.mark.parametrize("kind", [b"IHDR", b"PLTE"])
def test_wrong_checksum_of_critical_chunk_is_refused(kind: bytes) -> None:
    data = encoded(picture(mode="P"), "PNG")
    parts = [
        part[:-1] + bytes((part[-1] ^ 1,)) if part[4:8] == kind else part for part in chunks(data)
    ]
    with pytest.raises(RequestError, match="not an image of a supported format"):
        read(data[:8] + b"".join(parts))


@pytest.mark.parametrize("name", ["JPEG", "PNG", "GIF", "WEBP", "BMP"])
@pytest.mark.filterwarnings("ignore")
def test_any_cut_and_flip_is_read_or_refused(name: str) -> None:
    data = encoded(picture(40, 30), name)
    rng = np.random.default_rng(11)
    spec = ImageInput(size=16)
    results = set()
    for _ in range(400):
        odd = bytearray(data[: len(data) - int(rng.integers(0, len(data) // 6))])
        for at in rng.integers(0, len(odd), int(rng.integers(0, 3))):
            odd[at] = int(rng.integers(0, 256))
        try:
            image_tensor(read(bytes(odd)), spec)
            results.add("read")
        except RequestError:
            results.add("refused")
    assert results == {"read", "refused"}

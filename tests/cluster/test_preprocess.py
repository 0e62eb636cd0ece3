"""Preprocessing: tensors equal to those of training, and bounded cost of hostile files."""

import struct
import subprocess
import sys
import tracemalloc
import warnings
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from cluster.config.sources import ImageInput, TextInput
from cluster.errors import ConfigError, PayloadTooLargeError, RequestError
from cluster.preprocess import IMAGE_FORMATS, TextEncoder, decode_image, flatten, image_tensor

MAX_PIXELS = 1_000_000
PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
GREY = {"channels": 1, "mean": (0.0,), "std": (1.0,)}


def picture(width=31, height=20, mode="RGB"):
    """Return smooth colours with a little noise, so that a misplaced pixel shows."""
    rng = np.random.default_rng(width * 1000 + height)
    y, x = np.mgrid[0:height, 0:width]
    channels = [x * 255 / max(width - 1, 1), y * 255 / max(height - 1, 1), (x + y) % 256]
    smooth = np.stack(channels, axis=-1)
    noisy = (smooth + rng.integers(-20, 20, smooth.shape)).clip(0, 255).astype(np.uint8)
    return Image.fromarray(noisy).convert(mode)


def encoded(image, image_format, **options):
    file = BytesIO()
    image.save(file, image_format, **options)
    return file.getvalue()


def pixels_of(image, **spec):
    """Return the tensor of a small image without resizing and normalizing, as 0..255 [h, w, c]."""
    tensor = image_tensor(image, ImageInput(**spec))
    return (tensor * 255).round().astype(int).transpose(1, 2, 0)


# ------------------------------------------------------------------ decoding


@pytest.mark.parametrize("image_format", IMAGE_FORMATS)
def test_every_supported_format_is_read(image_format):
    options = {"lossless": True} if image_format == "WEBP" else {}
    original = picture()
    image = decode_image(encoded(original, image_format, **options), max_pixels=MAX_PIXELS)
    assert image.size == (31, 20)
    difference = np.abs(np.asarray(image.convert("RGB"), int) - np.asarray(original, int))
    # JPEG and GIF's palette are lossy; the others are lossless.
    assert difference.mean() < (12 if image_format in ("JPEG", "GIF") else 1e-9)


def test_animated_gif_gives_first_frame():
    frames = [Image.new("RGB", (9, 9), color) for color in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    image = decode_image(data, max_pixels=MAX_PIXELS)
    assert image.convert("RGB").getpixel((4, 4)) == (255, 0, 0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation):
    upright = Image.new("RGB", (16, 8), "white")
    upright.paste("red", (0, 0, 8, 4))  # the upper left quarter
    # As stored by a camera: the inverse of the rotation in its tag.
    stored = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(upright if stored is None else upright.transpose(stored), "PNG", exif=exif)
    image = decode_image(data, max_pixels=MAX_PIXELS)
    assert image.size == (16, 8)
    np.testing.assert_array_equal(np.asarray(image), np.asarray(upright))


def test_pixel_limit_is_inclusive_with_numbers_in_error():
    data = encoded(picture(31, 20), "PNG")
    assert decode_image(data, max_pixels=620).size == (31, 20)
    with pytest.raises(PayloadTooLargeError, match="31 × 20 = 620 pixels, the limit is 619"):
        decode_image(data, max_pixels=619)


def bomb(width, height):
    """Return a PNG of a claimed size, with 50 MB of zeros in a few kilobytes."""
    rows = zlib.compress(bytes(50_000_000), 9)

    def chunk(kind, data):
        checked = kind + data
        return struct.pack(">I", len(data)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("width", "height", "match"),
    [
        (4000, 4000, "4000 × 4000 = 16000000 pixels, the limit is 1000000"),
        (10_000, 10_000, "limit"),  # PIL warns
        (60_000, 60_000, "over the limit of 1000000 pixels.*3600000000 pixels"),  # PIL refuses
    ],
)
@pytest.mark.parametrize("action", ["ignore", "error"])
def test_decompression_bomb_is_refused_by_header(width, height, match, action):
    data = bomb(width, height)
    with warnings.catch_warnings():
        warnings.simplefilter(action, Image.DecompressionBombWarning)
        with pytest.raises(PayloadTooLargeError, match=match):
            decode_image(data, max_pixels=MAX_PIXELS)


@pytest.mark.parametrize("image_format", ["PNG", "WEBP", "GIF"])
def test_refusing_bomb_takes_no_memory(image_format, tmp_path):
    # In a separate process: PIL's memory shows only in the peak of the whole process.
    path = tmp_path / "bomb"
    path.write_bytes(bomb(4000, 4000) if image_format == "PNG" else flat(image_format))
    code = """
import sys
from pathlib import Path
from PIL import Image
from cluster.errors import PayloadTooLargeError
from cluster.preprocess import decode_image

def peak_kb():
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])

data = Path(sys.argv[1]).read_bytes()
Image.init()
before = peak_kb()
try:
    decode_image(data, max_pixels=1_000_000)
except PayloadTooLargeError:
    print(peak_kb() - before)
"""
    command = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert int(done.stdout) < 8_000  # decoding would take at least 16,000


def flat(image_format):
    """Write a real image of 16 million pixels that compresses to a few kilobytes."""
    return encoded(Image.new("L", (4000, 4000)), image_format)


@pytest.mark.parametrize("data", [b"", b"hello", bytes(1000), b"\x89PNG\r\n\x1a\n", b"GIF89a"])
def test_non_image_bytes_are_refused(data):
    with pytest.raises(
        RequestError, match="not an image of a supported format: PNG, JPEG"
    ) as caught:
        decode_image(data, max_pixels=MAX_PIXELS)
    assert caught.value.http_status == 400


@pytest.mark.parametrize("image_format", ["TIFF", "ICO", "PPM", "TGA"])
def test_unsupported_format_is_refused(image_format):
    with pytest.raises(RequestError, match="not an image of a supported format"):
        decode_image(encoded(picture(), image_format), max_pixels=MAX_PIXELS)


@pytest.mark.parametrize("image_format", IMAGE_FORMATS)
def test_truncated_image_is_refused(image_format):
    data = encoded(picture(300, 200), image_format)
    with pytest.raises(RequestError, match=r"truncated|not an image"):
        decode_image(data[: len(data) // 2], max_pixels=MAX_PIXELS)


@pytest.mark.parametrize("image_format", IMAGE_FORMATS)
@pytest.mark.filterwarnings("ignore")
def test_damaged_image_raises_request_error_only(image_format):
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {} if image_format in ("BMP", "GIF") else {"exif": exif}
    good = encoded(picture(24, 16), image_format, **options)
    rng = np.random.default_rng(5)
    refused = 0
    for _ in range(300):
        data = bytearray(good)
        for position in rng.integers(0, len(data), rng.integers(1, 6)):
            data[position] = rng.integers(0, 256)
        try:
            image_tensor(decode_image(bytes(data), max_pixels=MAX_PIXELS), ImageInput(size=16))
        except RequestError:  # PayloadTooLargeError is one
            refused += 1
    assert refused > 0


# ------------------------------------------------------------------ image → tensor


@pytest.mark.parametrize(
    "size",
    [(640, 480), (480, 640), (331, 257), (257, 331), (256, 256), (999, 100), (224, 224), (61, 47)],
    ids=str,
)
def test_tensor_matches_torchvision(size):
    from torchvision.models import ResNet18_Weights

    image = picture(*size)
    expected = ResNet18_Weights.IMAGENET1K_V1.transforms()(image).numpy()
    tensor = image_tensor(image, ImageInput(size=224, resize=256))
    np.testing.assert_array_equal(tensor, expected, strict=True)
    assert tensor.flags.c_contiguous


@pytest.mark.parametrize(("size", "resize"), [(27, 30), (28, 33), (32, 32), (31, 40)])
def test_crop_with_odd_margin_matches_torchvision(size, resize):
    from torchvision.transforms._presets import ImageClassification

    for width, height in [(45, 31), (31, 45), (37, 37), (64, 33)]:
        image = picture(width, height, "L")
        preset = ImageClassification(crop_size=size, resize_size=resize, mean=(0.3,), std=(0.7,))
        spec = ImageInput(size=size, resize=resize, channels=1, mean=(0.3,), std=(0.7,))
        np.testing.assert_array_equal(image_tensor(image, spec), preset(image).numpy(), strict=True)


def test_squeezed_image_matches_torchvision():
    from torchvision.transforms import functional

    image = picture(61, 33)
    expected = functional.to_tensor(functional.resize(image, [24, 24])).numpy()
    tensor = image_tensor(image, ImageInput(size=24, **PLAIN))
    np.testing.assert_allclose(tensor, expected, rtol=0, atol=1e-7)


def test_transparent_parts_become_white():
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    image.paste((255, 0, 0, 255), (0, 0, 8, 4))
    image.putpixel((7, 7), (0, 0, 255, 128))
    pixels = pixels_of(image, size=8, **PLAIN)
    assert pixels[0, 0].tolist() == [255, 0, 0]
    assert pixels[5, 5].tolist() == [255, 255, 255]
    assert pixels[7, 7].tolist() == [127, 127, 255]
    grey = pixels_of(image.convert("LA"), size=8, **GREY)
    assert (grey[0, 0, 0], grey[5, 5, 0]) == (76, 255)


def test_palette_gives_colours_and_white_for_transparency():
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 10, 200, 30])
    image.putpixel((0, 0), 0)
    assert pixels_of(image, size=8, **PLAIN)[0, 0].tolist() == [0, 0, 0]
    assert pixels_of(image, size=8, **PLAIN)[3, 3].tolist() == [10, 200, 30]
    data = encoded(image, "PNG", transparency=0)
    read = decode_image(data, max_pixels=MAX_PIXELS)
    assert read.mode == "P"
    assert pixels_of(read, size=8, **PLAIN)[0, 0].tolist() == [255, 255, 255]
    assert pixels_of(read, size=8, **PLAIN)[3, 3].tolist() == [10, 200, 30]


@pytest.mark.parametrize("spec", [PLAIN, GREY], ids=["rgb", "grey"])
def test_16_bit_grey_is_scaled_not_clipped(spec):
    deep = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    read = decode_image(encoded(Image.fromarray(deep), "PNG"), max_pixels=MAX_PIXELS)
    expected = np.round(deep / 257).astype(int)
    pixels = pixels_of(read, size=8, **spec)
    np.testing.assert_array_equal(pixels, np.repeat(expected[..., None], pixels.shape[2], axis=2))


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I"])
def test_16_bit_grey_is_rounded_to_8_bits(mode):
    deep = np.arange(2**16).reshape(256, 256)
    if mode == "I":
        deep[0, 0], deep[-1, -1] = -5, 2**20  # values beyond 16 bits are clipped
        image = Image.fromarray(deep.astype(np.int32))
    else:
        raw = deep.astype(">u2" if mode == "I;16B" else "<u2").tobytes()
        image = Image.frombytes(mode, (256, 256), raw)
    assert image.mode == mode
    values = pixels_of(image, size=256, resize=256, **GREY)[..., 0]
    np.testing.assert_array_equal(values, np.round(deep.clip(0, 65535) / 257))


def test_large_16_bit_image_needs_little_extra_memory():
    image = Image.fromarray(np.full((4000, 4000), 257 * 9, np.uint16))
    tracemalloc.start()
    tensor = image_tensor(image, ImageInput(size=16, resize=16, **{**PLAIN, **GREY}))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_allclose(tensor * 255, 9, atol=1e-4)
    assert peak < 8 * 4000 * 4000


MODES = ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I", "I;16"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("transparent", [False, True])
@pytest.mark.parametrize("spec", [PLAIN, GREY], ids=["rgb", "grey"])
def test_banded_conversion_matches_single_conversion(mode, transparent, spec, monkeypatch):
    image = picture(61, 97).convert("L" if mode.startswith("I") else "RGB").convert(mode)
    if transparent and mode in ("1", "L", "P", "RGB"):
        image.info["transparency"] = (9, 9, 9) if mode == "RGB" else 1
    undivided = image_tensor(image, ImageInput(size=40, resize=50, **spec))
    monkeypatch.setattr(flatten, "BAND_PIXELS", 61 * 7)
    in_bands = image_tensor(image, ImageInput(size=40, resize=50, **spec))
    np.testing.assert_array_equal(in_bands, undivided, strict=True)


@pytest.mark.parametrize("mode", ["P", "LA", "RGBA", "I;16"])
def test_large_image_needs_at_most_twice_its_pixels(mode, tmp_path):
    # In a separate process: PIL's memory shows only in the peak of the whole process.
    path = tmp_path / "large.png"
    options = {"transparency": 0} if mode == "P" else {}
    Image.new(mode, (4000, 4000)).save(path, **options)
    code = """
import sys
from pathlib import Path
from PIL import Image
from cluster.config.sources import ImageInput
from cluster.preprocess import decode_image, image_tensor

def kib(field):
    return int(Path("/proc/self/status").read_text().split(field + ":")[1].split()[0])

data = Path(sys.argv[1]).read_bytes()
Image.init()
before = kib("VmRSS")
image_tensor(decode_image(data, max_pixels=16_000_000), ImageInput(size=224, resize=256))
print(kib("VmHWM") - before)
"""
    command = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    # PIL stores most modes, RGB among them, in 4 bytes per pixel; an earlier version took 12.
    assert int(done.stdout) * 1024 < (2 * 4 + 1.5) * 4000 * 4000


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("channels", [1, 3])
def test_image_modes_become_channels_of_model(mode, channels):
    image = picture(40, 30, "L").convert(mode)
    spec = {**GREY, "std": (0.5,)} if channels == 1 else PLAIN
    tensor = image_tensor(image, ImageInput(size=16, resize=20, **spec))
    assert (tensor.shape, tensor.dtype) == ((channels, 16, 16), np.float32)


@pytest.mark.parametrize(
    ("width", "height", "resize"), [(1, 300_000, 300), (300_000, 1, 300), (1, 300_000, None)]
)
def test_long_thin_image_is_refused(width, height, resize):
    image = Image.new("L", (width, height))
    with pytest.raises(PayloadTooLargeError, match=rf"{width} × {height} pixels is too long"):
        image_tensor(image, ImageInput(size=256, resize=resize))


# ------------------------------------------------------------------ text


def tokenizer(padding=None):
    """Return a tokenizer with [CLS] and [SEP] like BERT's."""
    tokenizers = pytest.importorskip("tokenizers")
    vocabulary = {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "a": 3, "fine": 4, "film": 5, "[PAD]": 6}
    built = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    built.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    built.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    if padding is not None:
        built.enable_padding(**padding)
    return built.to_str().encode()


@pytest.mark.parametrize(
    ("text", "ids", "mask"),
    [
        ("a fine film", [1, 3, 4, 5, 2, 6], [1, 1, 1, 1, 1, 0]),
        ("a fine fine fine film", [1, 3, 4, 4, 4, 2], [1] * 6),
        ("a bad film", [1, 3, 0, 5, 2, 6], [1, 1, 1, 1, 1, 0]),
        ("", [1, 2, 6, 6, 6, 6], [1, 1, 0, 0, 0, 0]),
    ],
)
def test_texts_are_truncated_and_padded_to_max_length(text, ids, mask):
    encoded_text = TextEncoder(tokenizer(), TextInput(max_length=6))(text)
    assert list(encoded_text) == ["input_ids", "attention_mask"]
    for name, expected in (("input_ids", ids), ("attention_mask", mask)):
        np.testing.assert_array_equal(encoded_text[name], np.array(expected, np.int64), strict=True)


def test_encoder_keeps_padding_of_tokenizer():
    padding = {"direction": "left", "pad_id": 5, "pad_token": "film", "length": 99}
    encode = TextEncoder(tokenizer(padding), TextInput(max_length=6))
    assert encode("a")["input_ids"].tolist() == [5, 5, 5, 1, 3, 2]
    assert encode("a")["attention_mask"].tolist() == [0, 0, 0, 1, 1, 1]


def test_unreadable_tokenizer_is_refused():
    pytest.importorskip("tokenizers")
    with pytest.raises(ConfigError, match=r"tokenizer\.json cannot be read"):
        TextEncoder(b"{}", TextInput())


def test_missing_tokenizers_error_names_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ConfigError, match=r"pip install 'headrace\[hf\]'"):
        TextEncoder(b"{}", TextInput())

"""Prepared samples: model inputs that match files, texts and arrays."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cluster.config.sources import DataSource, ImageInput, TextInput
from cluster.data import PreparedSamples, Samples, load_data, require_readable
from cluster.errors import SourceError
from cluster.tensors import TensorSpec

IMAGE = ImageInput(size=8, channels=1, mean=(0.0,), std=(1.0,))
IMAGE_SPEC = TensorSpec(name="input", datatype="FP32", shape=(-1, 1, 8, 8))
ModuleFile = Callable[[str], str]


def training(source: str) -> Samples:
    return load_data(DataSource(source=source), seed=0).train


@pytest.fixture
def photos(tmp_path: Path) -> Samples:
    """Fourteen training samples as separate files."""
    for index in range(20):
        file = tmp_path / "photos" / f"class{index % 2}" / f"{index}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), index * 10).save(file)
    return training(f"imagefolder:{tmp_path}/photos")


def test_batch_has_pixels_in_requested_order() -> None:
    samples = training("digits")
    prepared = PreparedSamples(samples, [IMAGE_SPEC], IMAGE)
    (images,), labels = prepared.batch([7, 2, 7])
    for row, index in enumerate([7, 2, 7]):
        pixels = np.asarray(Image.open(BytesIO(samples.raw(index))))  # type: ignore[arg-type]
        np.testing.assert_allclose(images[row, 0], pixels / 255, atol=1e-6)
    assert images.dtype == np.float32
    assert labels.dtype == np.int64
    np.testing.assert_array_equal(labels, samples.labels[[7, 2, 7]])


def test_set_within_memory_limit_is_decoded_once(photos: Samples) -> None:
    everything = np.arange(len(photos))
    cached = PreparedSamples(photos, [IMAGE_SPEC], IMAGE)
    again = PreparedSamples(photos, [IMAGE_SPEC], IMAGE, memo_bytes=100)
    expected = cached.batch(everything)[0][0]
    np.testing.assert_array_equal(again.batch(everything)[0][0], expected)
    for index in everything:
        Path(photos.name(index)).unlink()
    first = cached.batch(everything)[0][0]
    first += 1  # a caller's change must not reach the cache
    np.testing.assert_array_equal(cached.batch(everything)[0][0], expected)
    with pytest.raises(SourceError, match="cannot be read"):
        again.batch(everything)


def test_damaged_image_is_named(photos: Samples) -> None:
    Path(photos.name(3)).write_bytes(b"not an image")
    prepared = PreparedSamples(photos, [IMAGE_SPEC], IMAGE)
    with pytest.raises(SourceError, match=f"{photos.name(3)}: "):
        prepared.batch([1, 3])


def pixels_of(photos: Samples, index: int) -> float:
    return float(np.asarray(Image.open(photos.name(index)))[0, 0]) / 255


@pytest.mark.parametrize("memo_bytes", [0, 10**6])
@pytest.mark.parametrize("first", [0, 3, 13])
def test_skipped_files_are_replaced_and_told_apart(
    photos: Samples, memo_bytes: int, first: int
) -> None:
    damaged = {first, (first + 1) % 14}
    expected = [pixels_of(photos, index) for index in range(14)]
    labels = photos.labels.copy()
    for index in damaged:
        Path(photos.name(index)).write_bytes(b"not an image")
        following = next(i for i in (*range(index, 14), *range(14)) if i not in damaged)
        expected[index] = expected[following]
        labels[index] = labels[following]
    assert first != 0 or labels.tolist() != photos.labels.tolist()
    prepared = PreparedSamples(
        photos, [IMAGE_SPEC], IMAGE, memo_bytes=memo_bytes, skip_unreadable=True
    )
    for _ in range(2):
        (images,), batch_labels = prepared.batch(range(14))
        np.testing.assert_allclose(images[:, 0, 0, 0], expected, atol=1e-6)
        np.testing.assert_array_equal(batch_labels, labels)
        assert set(np.flatnonzero(~prepared.readable(range(14)))) == damaged
    reasons = prepared.unreadable(range(14))
    assert set(reasons) == {photos.name(index) for index in damaged}
    assert all("12 bytes are not an image" in reason for reason in reasons.values())


def test_set_without_readable_file_is_refused(photos: Samples) -> None:
    for index in range(14):
        Path(photos.name(index)).unlink()
    with pytest.raises(SourceError, match=r"No such file.*nor can any other of 14 samples be read"):
        PreparedSamples(photos, [IMAGE_SPEC], IMAGE, skip_unreadable=True)


@pytest.mark.parametrize("damaged", [0, 1, 2])
def test_unreadable_files_are_counted_up_to_a_share(photos: Samples, damaged: int) -> None:
    for index in range(damaged):
        Path(photos.name(index)).write_bytes(b"not an image")
    sets = [
        PreparedSamples(part, [IMAGE_SPEC], IMAGE, skip_unreadable=True)
        for part in (photos.subset(slice(0, 10)), photos.subset(slice(10, 14)))
    ]
    lines: list[str] = []
    if damaged == 2:
        message = (
            r"2 of 14 samples cannot be read, a share of 0\.14; data\.max_unreadable allows "
            rf"0\.1, .*{photos.name(0)}: these 12 bytes are not an image.*{photos.name(1)}: "
        )
        with pytest.raises(SourceError, match=message):
            require_readable(sets, 0.1, lines.append)
        return
    assert set(require_readable(sets, 0.1, lines.append)) == {
        photos.name(index) for index in range(damaged)
    }
    assert len(lines) == damaged
    assert all("1 of 14 samples cannot be read and are left out" in line for line in lines)


def test_samples_of_other_kinds_are_not_read(module_file: ModuleFile) -> None:
    samples = arrays_of(module_file, "numpy.zeros((4, 2), 'f4'), [0, 1, 0, 1]")
    spec = TensorSpec(name="input", datatype="FP32", shape=(-1, 2))
    assert require_readable([PreparedSamples(samples, [spec], None)], 0.0, print) == {}


def test_image_over_pixel_limit_is_refused() -> None:
    with pytest.raises(SourceError, match="64 pixels"):
        PreparedSamples(training("digits"), [IMAGE_SPEC], IMAGE, max_pixels=63)


def arrays_of(module_file: ModuleFile, expression: str) -> Samples:
    return training(module_file(f"import numpy\ndef make(): return {expression}\n"))


def test_arrays_follow_order_of_inputs(module_file: ModuleFile) -> None:
    samples = arrays_of(
        module_file,
        "{'a': numpy.arange(8.).reshape(4, 2), 'b': numpy.arange(4)[:, None]}, [0, 1, 0, 1]",
    )
    specs = [
        TensorSpec(name="b", datatype="INT64", shape=(-1, 1)),
        TensorSpec(name="a", datatype="FP32", shape=(-1, 2)),
    ]
    (b, a), _ = PreparedSamples(samples, specs, None).batch([1, 0])
    assert (b.dtype, a.dtype) == (np.int64, np.float32)
    np.testing.assert_array_equal(b[:, 0], samples.indices[[1, 0]])
    np.testing.assert_array_equal(a[:, 0], 2.0 * samples.indices[[1, 0]])


@pytest.mark.parametrize(
    ("inputs", "datatype", "message"),
    [
        ("numpy.zeros((4, 3))", "FP32", r"float64 \[3\], the model takes FP32 \[2\]"),
        ("numpy.zeros((4, 2))", "INT64", r"float64 \[2\], the model takes INT64 \[2\]"),
        ("{'x': numpy.zeros((4, 2))}", "FP32", "the arrays are x, the model also takes input"),
        ("['a'] * 4", "FP32", "is a text; expected arrays"),
    ],
)
def test_mismatched_samples_are_refused_at_once(
    module_file: ModuleFile, inputs: str, datatype: str, message: str
) -> None:
    samples = arrays_of(module_file, f"{inputs}, [0, 1, 0, 1]")
    spec = TensorSpec(name="input", datatype=datatype, shape=(-1, 2))
    with pytest.raises(SourceError, match=message):
        PreparedSamples(samples, [spec], None)


def test_kind_of_samples_must_match_preprocessing(module_file: ModuleFile) -> None:
    texts = arrays_of(module_file, "['a'] * 4, [0, 1, 0, 1]")
    with pytest.raises(SourceError, match="is a text; expected image files"):
        PreparedSamples(texts, [IMAGE_SPEC], IMAGE)
    with pytest.raises(SourceError, match=r"needs the bytes of its tokenizer\.json"):
        PreparedSamples(texts, [], TextInput())


def test_texts_become_token_ids(module_file: ModuleFile) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    words = tokenizers.models.WordLevel({"[PAD]": 0, "[UNK]": 1, "good": 2}, unk_token="[UNK]")
    texts = arrays_of(module_file, "['good', 'good', 'bad', 'bad'], [1, 1, 0, 0]")
    specs = [
        TensorSpec(name=name, datatype="INT64", shape=(-1, 4))
        for name in ("input_ids", "attention_mask")
    ]
    tokenizer = tokenizers.Tokenizer(words).to_str().encode()
    prepared = PreparedSamples(texts, specs, TextInput(max_length=4), tokenizer)
    (ids, mask), labels = prepared.batch(range(len(texts)))
    np.testing.assert_array_equal(ids[:, 0], labels + 1)
    assert not ids[:, 1:].any()
    assert mask.tolist() == [[1, 0, 0, 0]] * len(texts)


def test_preparing_images_does_not_import_torch() -> None:
    program = (
        "import sys, cluster.data as d\n"
        "from cluster.config.sources import DataSource, ImageInput\n"
        "from cluster.tensors import TensorSpec\n"
        "spec = TensorSpec(name='input', datatype='FP32', shape=(-1, 3, 8, 8))\n"
        "samples = d.load_data(DataSource(), 0).test\n"
        "d.PreparedSamples(samples, [spec], ImageInput(size=8)).batch([0])\n"
        "sys.exit('torch' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0

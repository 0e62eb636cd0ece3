"""Data sources: real files in, labelled splits out."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file
from sklearn.datasets import load_sample_image

from cluster.config.sources import DataSource, ImageInput
from cluster.data import (
    LabelledData,
    PreparedSamples,
    load_data,
    require_every_class,
    require_labels,
)
from cluster.data.split import stratified_sample
from cluster.errors import SourceError
from cluster.tensors import TensorSpec

ModuleFile = Callable[[str], str]


def png(grey: int) -> bytes:
    file = BytesIO()
    Image.new("L", (8, 8), grey).save(file, "PNG")
    return file.getvalue()


def read(source: str, **fields: object) -> LabelledData:
    return load_data(DataSource.model_validate({"source": source, **fields}), seed=0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Folder of images of two classes: cat is black, dog is white and twice as many."""
    root = tmp_path / "photos"
    for name, grey, count in (("dog", 255, 20), ("cat", 0, 10)):
        (root / name / "deeper").mkdir(parents=True)
        for index in range(count):
            place = root / name / "deeper" if index % 2 else root / name
            (place / f"{index}.PNG").write_bytes(png(grey))
    (root / "cat" / "notes.txt").write_text("no image")
    return root


# ---------------------------------------------------------------------------- digits and splits


def test_digits_are_png_files_with_stratified_splits() -> None:
    data = read("digits")
    assert data.labels == tuple("0123456789")
    assert (len(data.train), len(data.validation), len(data.test)) == (1294, 144, 359)
    image = Image.open(BytesIO(data.train.raw(0)))  # type: ignore[arg-type]
    assert (image.format, image.mode, image.size) == ("PNG", "L", (8, 8))
    assert image.getextrema() == (0, 255)
    everywhere = sum(np.bincount(part.labels) for part in (data.train, data.validation, data.test))
    held_out = np.bincount(data.test.labels)
    assert np.abs(held_out - everywhere * 359 / 1797).max() < 1


def test_splits_are_disjoint_complete_and_seeded() -> None:
    first, again = read("digits"), read("digits")
    reseeded = load_data(DataSource(), seed=1)
    parts = [set(part.indices) for part in (first.train, first.validation, first.test)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 1797
    np.testing.assert_array_equal(first.train.indices, again.train.indices)
    np.testing.assert_array_equal(first.validation.indices, again.validation.indices)
    np.testing.assert_array_equal(first.test.indices, again.test.indices)
    assert set(first.test.indices) != set(reseeded.test.indices)
    assert first.fingerprint == again.fingerprint == reseeded.fingerprint


def test_limit_keeps_class_shares_in_each_split() -> None:
    data = read("digits", limit=50)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [45, 5, 50]
    for split in (data.train, data.test):
        shares = [len(split) / 10] * 10
        assert np.bincount(split.labels, minlength=10).tolist() == pytest.approx(shares, abs=1)


def test_validation_samples_can_come_from_held_out_ones() -> None:
    usual = read("digits")
    data = read("digits", validation_from="held_out", validation_share=0.5)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [1438, 180, 179]
    assert set(data.train.indices) == set(usual.train.indices) | set(usual.validation.indices)
    assert set(data.validation.indices) | set(data.test.indices) == set(usual.test.indices)


def test_validation_rejects_single_sample(tmp_path: Path) -> None:
    file = joined(tmp_path / "a.safetensors", offset=np.array([0, 9, 18]), label=np.array([0, 1]))
    with pytest.raises(SourceError, match=r"is the only sample .* expected at least two"):
        read(file)


def test_stratified_counts_add_up() -> None:
    labels = np.array([0] * 7 + [1] * 3 + [5])
    for count in range(len(labels) + 1):
        indices = stratified_sample(labels, count, np.random.default_rng(0))
        assert len(set(indices)) == count
        sizes = np.bincount(labels[indices], minlength=6)[[0, 1, 5]]
        assert np.abs(sizes - np.array([7, 3, 1]) * count / 11).max() < 1


def test_subset_reads_same_samples() -> None:
    train = read("digits").train
    part = train.subset(np.array([5, 3])).subset(slice(1, 2))
    assert len(part) == 1
    assert part.raw(0) == train.raw(3)
    assert part.labels[0] == train.labels[3]
    assert part.items is train.items


# ---------------------------------------------------------------------------- image folders


def test_imagefolder_numbers_sorted_class_folders(folder: Path) -> None:
    data = read(f"imagefolder:{folder}", test_share=0.2)
    assert data.labels == ("cat", "dog")
    assert np.bincount(data.test.labels).tolist() == [2, 4]
    for index in range(len(data.train)):
        assert data.train.raw(index) == png(255 if data.train.labels[index] else 0)
    assert len(set(data.train.labels[:10])) == 2, "the first samples must not be of one class"


def test_imagefolder_fingerprint_follows_content_not_place(folder: Path, tmp_path: Path) -> None:
    before = read(f"imagefolder:{folder}").fingerprint
    moved = folder.rename(tmp_path / "elsewhere")
    assert read(f"imagefolder:{moved}").fingerprint == before
    (moved / "cat" / "0.PNG").write_bytes(png(1))
    assert read(f"imagefolder:{moved}").fingerprint != before


def test_large_sets_are_fingerprinted_by_size_and_time(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.fingerprint.CONTENT_BYTES", 10)
    before = read(f"imagefolder:{folder}").fingerprint
    assert read(f"imagefolder:{folder}").fingerprint == before
    os.utime(folder / "cat" / "0.PNG", ns=(0, 0))
    assert read(f"imagefolder:{folder}").fingerprint != before


def test_imagefolder_keeps_file_that_cannot_be_opened(folder: Path) -> None:
    before = read(f"imagefolder:{folder}")
    (folder / "cat" / "gone.png").symlink_to(folder / "nowhere")
    after = read(f"imagefolder:{folder}")
    assert after.fingerprint == before.fingerprint
    count = {len(data.train) + len(data.validation) + len(data.test) for data in (before, after)}
    assert max(count) == min(count) + 1


def test_imagefolder_rejects_wrong_folders(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="missing cannot be read: No such file"):
        read(f"imagefolder:{tmp_path}/missing")
    with pytest.raises(SourceError, match="Not a directory"):
        read(f"imagefolder:{folder}/cat/notes.txt")
    with pytest.raises(SourceError, match="one folder per class"):
        read(f"imagefolder:{folder}/cat/deeper")
    (folder / "bird").mkdir()
    with pytest.raises(SourceError, match=r"'bird' contains no image file \(\.png"):
        read(f"imagefolder:{folder}")


def test_deleted_image_is_named(folder: Path) -> None:
    train = read(f"imagefolder:{folder}").train
    deleted = Path(train.name(4))
    deleted.unlink()
    with pytest.raises(SourceError, match=f"{deleted} cannot be read"):
        train.raw(4)


# ---------------------------------------------------------------------------- safetensors


def joined(path: Path, **changes: object) -> str:
    """Write a file of ten 8×8 images of two classes, with changed tensors."""
    files = [png(index) for index in range(10)]
    tensors: dict[str, object] = {
        "jpeg": np.frombuffer(b"".join(files), np.uint8),
        "offset": np.cumsum([0, *map(len, files)]),
        "label": np.array([0, 1] * 5),
        **changes,
    }
    metadata = tensors.pop("metadata", {"classes": "even,odd"})
    save_file({name: array for name, array in tensors.items() if array is not None}, path, metadata)
    return f"safetensors:{path}"


def test_safetensors_slices_equal_the_files(tmp_path: Path) -> None:
    data = read(joined(tmp_path / "a.safetensors"))
    assert data.labels == ("even", "odd")
    for split in (data.train, data.test):
        for index in range(len(split)):
            assert split.raw(index) == png(int(split.indices[index]))
            assert split.labels[index] == split.indices[index] % 2
    unnamed = read(joined(tmp_path / "b.safetensors", metadata=None))
    assert unnamed.labels == ("0", "1")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": None}, "has the tensors jpeg, offset; expected jpeg, offset, label"),
        (
            {"label": np.zeros(10, np.float64)},
            "label is F64 .* expected I64 with 1, or BOOL with 2",
        ),
        ({"label": np.full((10, 2), 3, np.uint8)}, r"labels are uint8 \[10, 2\], expected classes"),
        ({"label": np.zeros(9, np.int64)}, "10 samples but 9 labels"),
        ({"label": np.array([0, 1] * 4 + [0, 2])}, r"image 9 has label 2, expected 0\.\.1"),
        ({"offset": np.array([0, 10**6])}, "offset must increase"),
        ({"offset": np.array([0, 20, 10])}, "offset must increase"),
        ({"offset": np.array([0])}, "no samples"),
        ({"metadata": {"classes": "only"}}, "at least two"),
    ],
)
def test_safetensors_rejects_wrong_tensors(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(SourceError, match=message):
        read(joined(tmp_path / "a.safetensors", **changes))


def test_safetensors_rejects_unreadable_file(tmp_path: Path) -> None:
    (tmp_path / "junk.safetensors").write_bytes(b"junk" * 10)
    for name in ("junk.safetensors", "missing.safetensors"):
        with pytest.raises(SourceError, match=f"{name} cannot be read"):
            read(f"safetensors:{tmp_path}/{name}")


def photographs(path: Path, first: int) -> str:
    """Return a file of 32×32 JPEG cuts of scikit-learn's two photographs, every second of them."""
    files: list[bytes] = []
    labels: list[int] = []
    for label, name in enumerate(("china.jpg", "flower.jpg")):
        photograph = Image.fromarray(load_sample_image(name))
        corners = [(x, y) for y in range(0, 384, 32) for x in range(0, 608, 32)]
        for x, y in corners[first::2]:
            cut = BytesIO()
            photograph.crop((x, y, x + 32, y + 32)).save(cut, "JPEG")
            files.append(cut.getvalue())
            labels.append(label)
    return joined(
        path,
        jpeg=np.frombuffer(b"".join(files), np.uint8),
        offset=np.cumsum([0, *map(len, files)]),
        label=np.array(labels),
        metadata={"classes": "china,flower"},
    )


def test_safetensors_reads_jpeg_photographs(tmp_path: Path) -> None:
    data = read(
        photographs(tmp_path / "train.safetensors", first=0),
        test_source=photographs(tmp_path / "test.safetensors", first=1),
        limit=100,
    )
    assert data.labels == ("china", "flower")
    assert np.bincount(data.test.labels).tolist() == [50, 50]
    spec = TensorSpec(name="input", datatype="FP32", shape=(-1, 3, 32, 32))
    prepare = ImageInput(size=32)
    (images,), labels = PreparedSamples(data.test, [spec], prepare).batch(range(64))
    assert images.shape == (64, 3, 32, 32)
    pixels = np.asarray(Image.open(BytesIO(data.test.raw(0))))  # type: ignore[arg-type]
    expected = (pixels / 255 - prepare.mean) / prepare.std
    np.testing.assert_allclose(images[0].transpose(1, 2, 0), expected, atol=1e-5)
    np.testing.assert_array_equal(labels, data.test.labels[:64])


# ---------------------------------------------------------------------------- test_source


def test_test_source_is_held_out_whole(tmp_path: Path) -> None:
    train = joined(tmp_path / "a.safetensors")
    test = joined(tmp_path / "b.safetensors", label=np.array([1, 0] * 5))
    data = read(train, test_source=test)
    assert (len(data.train), len(data.validation), len(data.test)) == (9, 1, 10)
    assert data.fingerprint not in (read(train).fingerprint, read(test).fingerprint)


def test_load_rejects_mismatched_sources(tmp_path: Path) -> None:
    train = joined(tmp_path / "a.safetensors")
    second = joined(tmp_path / "b.safetensors", metadata={"classes": "odd,even"})
    with pytest.raises(SourceError, match=r"are even, odd, those of .* are odd, even"):
        read(train, test_source=second)
    with pytest.raises(SourceError, match="none would be held out"):
        read(train, test_source=train)


def test_load_rejects_split_of_one_sample(tmp_path: Path) -> None:
    file = joined(tmp_path / "a.safetensors", offset=np.array([0, 9]), label=np.array([0]))
    with pytest.raises(SourceError, match="cannot be split"):
        read(file)


# ---------------------------------------------------------------------------- python


def test_python_source_reads_arrays_and_tensors(module_file: ModuleFile) -> None:
    arrays = module_file(
        "import numpy, torch\n"
        "def make(): return {'x': torch.arange(12.).reshape(6, 2)}, numpy.arange(6) % 3\n"
        "def named(): return numpy.zeros((4, 2)), [0, 1, 0, 1], ['no', 'yes']\n"
        "def bytes(): return numpy.zeros((6, 2)), (numpy.arange(6) % 3).astype(numpy.uint8)\n",
    )
    assert read(arrays.replace(":make", ":bytes")).labels == ("0", "1", "2")
    data = read(arrays)
    assert data.labels == ("0", "1", "2")
    raw = data.test.raw(0)
    assert isinstance(raw, dict)
    np.testing.assert_array_equal(
        raw["x"], [2.0 * data.test.indices[0], 2.0 * data.test.indices[0] + 1]
    )
    named = read(arrays.replace(":make", ":named"))
    assert named.labels == ("no", "yes")
    assert list(named.train.raw(0)) == ["input"]


def test_python_source_reads_texts_and_image_files(module_file: ModuleFile) -> None:
    lists = module_file(
        "def make(): return ['good', 'bad', 'fine', 'awful'], [1, 0, 1, 0]\n"
        "def files(): return [b'a', b'b', b'c'], [1, 0, 1]\n",
    )
    texts = read(lists).train
    assert {texts.raw(i) for i in range(len(texts))} < {"good", "bad", "fine", "awful"}
    assert isinstance(read(lists.replace(":make", ":files")).train.raw(0), bytes)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return 3", r"returned int, expected the tuple \(inputs, labels\)"),
        ("raise OSError('no disk')", "raised OSError: no disk"),
        ("return [[1, 2], [0, 1]]", r"returned list, expected the tuple \(inputs, labels\)"),
        ("return []", "has no samples"),
        ("return [], []", "has no samples"),
        ("return ['a', b'b']", "input 1 is bytes, the first is str"),
        ("return [b'a', 'b'], [0, 1]", "input 1 is str, the first is bytes"),
        ("return {'a': [1, 2], 'b': [1]}, [0, 1]", "'a': 2, 'b': 1"),
        ("return [[1], [1, 2]], [0, 1]", "input cannot be converted to an array"),
        ("return [1, 2], [[0, 2], [1, 0]]", "expected classes as integers"),
        ("return [1, 2], [True, False]", "expected classes as integers"),
        ("return [1, 2], [[[0.5]], [[1.5]]]", "expected classes as integers"),
        ("return [1, 2], [0.5, float('nan')]", "sample 1 has a number that is not finite"),
        ("return [1, 2], [[1, 0], [0, 1]], ['a']", "2 labels per sample and the names a; expected"),
        ("return [1, 2], [[1, 0], [0, 1]], ['a', 'a']", "one distinct name for each"),
        ("return [1, 2], [-1, 1]", "has label -1"),
        ("return None, [1]", "input is NoneType"),
    ],
)
def test_python_source_rejects_wrong_returns(
    module_file: ModuleFile, body: str, message: str
) -> None:
    source = module_file(f"def make():\n    {body}\n")
    with pytest.raises(SourceError, match=message):
        read(source)


# ---------------------------------------------------------------------------- labels, and none


def test_inputs_alone_are_unlabelled_samples(module_file: ModuleFile) -> None:
    source = module_file(
        "import numpy, torch\n"
        "def make(): return [f'text {i}' for i in range(10)]\n"
        "def other(): return [f'text {i}' for i in range(9)] + ['another']\n"
        "def arrays(): return {'x': torch.zeros(4, 2)}\n"
        "def array(): return numpy.zeros((4, 2))\n",
    )
    data = read(source)
    assert data.labels == ()
    assert (len(data.train), len(data.validation), len(data.test)) == (7, 1, 2)
    assert not data.train.labels.any()
    assert data.fingerprint != read(source.replace(":make", ":other")).fingerprint
    for name, inputs in (("arrays", "x"), ("array", "input")):
        data_of_inputs = read(source.replace(":make", f":{name}"))
        assert (data_of_inputs.labels, list(data_of_inputs.train.raw(0))) == ((), [inputs])
    with pytest.raises(SourceError, match=r"classes of .*:make are \(none\), those of digits are"):
        read(source, test_source="digits")


def test_require_labels_rejects_unlabelled_data() -> None:
    data = read("digits")
    require_labels(data, "steps[0] (train)")
    with pytest.raises(SourceError, match=r"^steps\[0\] \(train\) needs labels, but the data has"):
        require_labels(replace(data, labels=()), "steps[0] (train)")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1] * 10, "1 of 3 are missing in the 14 training samples: eel"),
        ([0] * 20, "2 of 3 are missing in the 14 training samples: dog, eel"),
    ],
)
def test_training_needs_every_class_and_scoring_none(
    tmp_path: Path, labels: list[int], message: str
) -> None:
    files = [png(index) for index in range(20)]
    data = read(
        joined(
            tmp_path / "a.safetensors",
            jpeg=np.frombuffer(b"".join(files), np.uint8),
            offset=np.cumsum([0, *map(len, files)]),
            label=np.array(labels),
            metadata={"classes": "cat,dog,eel"},
        )
    )
    with pytest.raises(
        SourceError, match=rf"steps\[0\] \(train\) needs every class, but {message};"
    ):
        require_every_class(data, "steps[0] (train)")
    require_labels(data, "evaluation.metrics (accuracy)")  # samples of one class can be scored


# ---------------------------------------------------------------------------- labels of other kinds


@pytest.mark.parametrize("dtype", ["bool", "int64", "uint8"])
def test_python_source_reads_independent_labels(module_file: ModuleFile, dtype: str) -> None:
    source = module_file(
        "import numpy as np\n"
        "BITS = np.arange(20)[:, None] >> np.arange(3) & 1\n"
        f"def make(): return np.arange(20.0), BITS.astype('{dtype}'), ['a', 'b', 'c']\n"
    )
    data = read(source)
    assert (data.labels, data.train.activation) == (("a", "b", "c"), "sigmoid")
    assert (len(data.train), len(data.validation), len(data.test)) == (14, 2, 4)
    for split in (data.train, data.test):
        expected = split.indices[:, None] >> np.arange(3) & 1
        np.testing.assert_array_equal(split.labels, expected.astype(bool), strict=True)
    require_every_class(data, "steps[0] (train)")
    train = replace(data.train, labels=data.train.labels & [True, False, True])
    with pytest.raises(SourceError, match="1 of 3 are missing in the 14 training samples: b;"):
        require_every_class(replace(data, train=train), "steps[0] (train)")


@pytest.mark.parametrize(
    ("shape", "names"), [("(20,)", ("value",)), ("(20, 2)", ("value_0", "value_1"))]
)
def test_python_source_reads_numbers(
    module_file: ModuleFile, shape: str, names: tuple[str, ...]
) -> None:
    source = module_file(
        "import numpy as np\n"
        f"def make(): return np.arange(20.0), np.arange(20 * {len(names)}.0).reshape({shape})\n"
    )
    data = read(source, limit=10)
    assert (data.labels, data.train.activation) == (names, "none")
    expected = data.test.indices[:, None] * len(names) + np.arange(len(names))
    np.testing.assert_array_equal(data.test.labels, expected.astype(np.float32), strict=True)
    require_every_class(data, "steps[0] (train)")
    with pytest.raises(SourceError, match=r"are float32, those of digits int64; .* the same kind"):
        read(source, test_source="digits")


def test_safetensors_reads_independent_labels_and_numbers(tmp_path: Path) -> None:
    bits = np.arange(10)[:, None] >> np.arange(2) & 1
    data = read(joined(tmp_path / "a.safetensors", label=bits.astype(np.uint8)))
    assert (data.labels, data.train.activation) == (("even", "odd"), "sigmoid")
    np.testing.assert_array_equal(data.train.labels, bits[data.train.indices].astype(bool))
    numbers = np.linspace(0, 1, 10).astype(np.float32)
    data = read(joined(tmp_path / "b.safetensors", label=numbers, metadata=None))
    assert (data.labels, data.train.activation) == (("value",), "none")
    np.testing.assert_array_equal(data.train.labels[:, 0], numbers[data.train.indices])

"""Artifacts: files checked before use, and a validated manifest."""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from cluster.artifact.artifact import Artifact
from cluster.artifact.entries import Latency
from cluster.artifact.manifest import Manifest, content_id
from cluster.artifact.printable import printable
from cluster.errors import ArtifactCorruptError, ArtifactError

Finished = Callable[..., bytes]


def test_manifest_survives_round_trip(tmp_path: Path, finished: Finished) -> None:
    raw = finished(tmp_path)
    manifest = Manifest.from_json(raw, "here")
    assert manifest.to_json() == raw
    assert manifest.labels == ("no", "yes")
    assert manifest.inputs[0].item_shape == (4,)
    assert Artifact.read(tmp_path, content_id(raw)).id == sha256(raw).hexdigest()


def test_artifact_returns_path_of_intact_file(tmp_path: Path, finished: Finished) -> None:
    finished(tmp_path)
    artifact = Artifact.read(tmp_path)
    artifact.verify()
    assert artifact.file("programs/cpu-x86.pt2").read_bytes() == b"program"


def test_artifact_rejects_changed_file_with_both_hashes(tmp_path: Path, finished: Finished) -> None:
    finished(tmp_path)
    file = tmp_path / "programs" / "cpu-x86.pt2"
    file.write_bytes(b"progrAm")  # the same size
    artifact = Artifact.read(tmp_path)
    for check in (lambda: artifact.file("programs/cpu-x86.pt2"), artifact.verify):
        with pytest.raises(ArtifactCorruptError) as caught:
            check()
        for part in (str(file), sha256(b"progrAm").hexdigest(), sha256(b"program").hexdigest()):
            assert part in str(caught.value)
    assert artifact.file("weights.safetensors").is_file()


def test_artifact_names_missing_file(tmp_path: Path, finished: Finished) -> None:
    finished(tmp_path)
    (tmp_path / "weights.safetensors").unlink()
    with pytest.raises(ArtifactCorruptError, match=r"weights\.safetensors: cannot be read"):
        Artifact.read(tmp_path).verify()


def test_artifact_rejects_changed_manifest_with_both_hashes(
    tmp_path: Path, finished: Finished
) -> None:
    raw = finished(tmp_path)
    changed = raw.replace(b'"yes"', b'"YES"')
    (tmp_path / "manifest.json").write_bytes(changed)
    with pytest.raises(ArtifactCorruptError) as caught:
        Artifact.read(tmp_path, content_id(raw))
    for part in ("manifest.json", content_id(raw), content_id(changed)):
        assert part in str(caught.value)


def test_artifact_rejects_file_unknown_to_manifest(tmp_path: Path, finished: Finished) -> None:
    finished(tmp_path)
    (tmp_path / "extra.so").write_bytes(b"code")
    with pytest.raises(ArtifactError, match=r"file 'extra\.so' is unknown to the manifest"):
        Artifact.read(tmp_path).file("extra.so")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        (b"\x80", "not JSON"),
        (b"[" * 200_000, "not JSON"),
        (
            b'{"schema_version": 2, "recipe": ' + b"[" * 70 + b"]" * 70 + b"}",
            "more than 64 levels deep",
        ),
        (b"[]", "schema_version is None"),
        (b'{"format": "another tool"}', "schema_version is None"),
        (b'{"schema_version": 1}', "schema_version is 1, this Headrace reads 2"),
        (b'{"schema_version": 2}', "not a Headrace manifest"),
    ],
)
def test_artifact_rejects_foreign_directory(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(ArtifactError, match=message) as caught:
        Artifact.read(tmp_path)
    assert str(tmp_path / "manifest.json") in str(caught.value)


@pytest.mark.parametrize(
    "path", ["../evil", "/etc/passwd", "a/../b", "a//b", ".hidden", "a/", "", "a\\b", "a\n"]
)
def test_manifest_rejects_paths_outside_artifact(
    tmp_path: Path, finished: Finished, path: str
) -> None:
    data = json.loads(finished(tmp_path))
    data["files"][path] = data["files"]["weights.safetensors"]
    with pytest.raises(ArtifactError, match="not a Headrace manifest"):
        Manifest.from_json(json.dumps(data).encode(), "here")


@pytest.mark.parametrize(
    "path", ["manifest.json", "manifest.json/x", "weights.safetensors/x", "programs"]
)
def test_manifest_rejects_conflicting_paths(tmp_path: Path, finished: Finished, path: str) -> None:
    data = json.loads(finished(tmp_path))
    data["files"][path] = data["files"]["weights.safetensors"]
    with pytest.raises(ArtifactError, match=r"files: .* conflicts with another file"):
        Manifest.from_json(json.dumps(data).encode(), "here")


def test_manifest_rejects_unknown_field(tmp_path: Path, finished: Finished) -> None:
    data = json.loads(finished(tmp_path)) | {"weigths": 1}
    with pytest.raises(ArtifactError, match="weigths"):
        Manifest.from_json(json.dumps(data).encode(), "here")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("name", name) for name in ("../x", "/x", "", "a\n", "n" * 64, "3e3347cb", "0" * 64)],
        *[("recipe_key", key) for key in ("../x", "/x", "", "0" * 63, "A" * 64, "0" * 64 + "\n")],
        ("metric", "accuracy\nsigned     X (trusted)"),
        ("fastest", {"cpu-x86\x1b[2J": "aoti"}),
    ],
)
def test_manifest_rejects_unsafe_names(
    tmp_path: Path, finished: Finished, field: str, value: object
) -> None:
    data = json.loads(finished(tmp_path)) | {field: value}
    with pytest.raises(ArtifactError, match=f"not a Headrace manifest: {field}") as caught:
        Manifest.from_json(json.dumps(data).encode(), "here")
    assert str(caught.value).isprintable()


def test_manifest_error_is_one_line(tmp_path: Path, finished: Finished) -> None:
    data = json.loads(finished(tmp_path)) | {"a\nheadrace: signed\x1b[8m": "b\nc", "labels": 1}
    with pytest.raises(ArtifactError, match="labels: ") as caught:
        Manifest.from_json(json.dumps(data).encode(), "here")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("text", ["a\nb", "\x1b[2J", "\r", "\u202ecba", "\u2028", "\ud800", "\0"])
def test_printable_escapes_control_characters(text: str) -> None:
    escaped = printable({text: [text, ("plain é 数", 1, None)]})
    assert escaped == {repr(text)[1:-1]: [repr(text)[1:-1], ["plain é 数", 1, None]]}
    assert str(escaped).isprintable()


def test_manifest_rejects_measurements_at_different_batches(
    tmp_path: Path, finished: Finished
) -> None:
    data = json.loads(finished(tmp_path))

    def measured(*batches: int) -> dict[str, object]:
        latency = [{"batch": batch, "p50_ms": 1, "p99_ms": 1} for batch in batches]
        figures = {"accuracy": 1, "accuracy_low": 1, "accuracy_high": 1, "samples": 1}
        return {**figures, "latency": latency, "size_bytes": 1}

    def read(baseline: tuple[int, ...], program: tuple[int, ...]) -> None:
        changed = {
            "baseline": measured(*baseline),
            "measured": {"cpu-x86/aoti": measured(*program)},
        }
        Manifest.from_json(json.dumps(data | changed).encode(), "here")

    read((1, 8), (1, 8))
    for baseline, program in (((1,), (1, 8)), ((8,), (8,)), ((), ()), ((1, 0), (1, 0))):
        with pytest.raises(ArtifactError, match="not a Headrace manifest"):
            read(baseline, program)


def test_throughput_is_items_over_median_time() -> None:
    assert Latency(batch=8, p50_ms=4.0, p99_ms=9.0).items_per_s == pytest.approx(2000)

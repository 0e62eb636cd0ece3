"""Remote store: the same artifacts as a local one, and no changed ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

import fsspec
import pytest

from cluster.artifact.manifest import content_id
from cluster.artifact.remote import RemoteStore
from cluster.errors import ArtifactCorruptError, ArtifactError, ArtifactNotFoundError

Finished = Callable[..., bytes]
URI = "memory://headrace-test/store"
KEY = "a" * 64


@pytest.fixture
def remote() -> Iterator[fsspec.AbstractFileSystem]:
    """Empty memory file system behind the URI."""
    filesystem = fsspec.filesystem("memory")
    yield filesystem
    if filesystem.exists("/headrace-test"):
        filesystem.rm("/headrace-test", recursive=True)


@pytest.fixture
def store(remote: fsspec.AbstractFileSystem, tmp_path: Path) -> RemoteStore:
    """Store from which artifacts are published."""
    return RemoteStore.at(URI, tmp_path / "builder")


@pytest.fixture
def reader(remote: fsspec.AbstractFileSystem, tmp_path: Path) -> RemoteStore:
    """The same store from a node with an empty cache."""
    return RemoteStore.at(URI, tmp_path / "reader")


@pytest.fixture
def artifact_id(store: RemoteStore, finished: Finished) -> str:
    with store.building(KEY) as room:
        finished(room / "artifact", name="digits", key=KEY)
        return str(store.publish(room / "artifact").id)


def put(remote: fsspec.AbstractFileSystem, path: str, content: bytes) -> None:
    remote.pipe_file(f"/headrace-test/store/{path}", content)


def cached_files(tmp_path: Path) -> list[str]:
    """Return the files in the reader's cache."""
    root = tmp_path / "reader"
    return sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())


def test_other_node_fetches_artifact_once(
    reader: RemoteStore, artifact_id: str, remote: fsspec.AbstractFileSystem, tmp_path: Path
) -> None:
    artifact = reader.open("digits")
    assert artifact.id == artifact_id
    assert artifact.path.is_relative_to(tmp_path / "reader")
    artifact.verify()
    remote.rm(f"/headrace-test/store/artifacts/{artifact_id}", recursive=True)
    again = reader.open("digits")  # now from the cache
    assert again.file("programs/cpu-x86.pt2").read_bytes() == b"program"


def test_manifest_is_read_without_other_files(
    reader: RemoteStore, artifact_id: str, tmp_path: Path
) -> None:
    """Plans and routers need no weights."""
    assert reader.manifest(artifact_id).name == "digits"
    assert cached_files(tmp_path) == []
    fetched = reader.fetch(artifact_id).manifest
    assert reader.manifest(artifact_id) == fetched


def test_fetch_writes_artifact_only(reader: RemoteStore, artifact_id: str, tmp_path: Path) -> None:
    reader.open("digits")
    files = ("manifest.json", "programs/cpu-x86.pt2", "weights.safetensors")
    assert cached_files(tmp_path) == [f"artifacts/{artifact_id}/{name}" for name in files]


@pytest.mark.parametrize("field", ["name", "recipe_key"])
@pytest.mark.parametrize("value", ["../artifacts/x", "../../../reader/evil", "/evil", "a/b", ""])
def test_fetch_ignores_name_and_build_of_manifest(
    reader: RemoteStore,
    finished: Finished,
    remote: fsspec.AbstractFileSystem,
    tmp_path: Path,
    field: str,
    value: str,
) -> None:
    data = json.loads(finished(tmp_path / "made")) | {field: value}
    raw = json.dumps(data).encode()
    evil = content_id(raw)
    put(remote, f"artifacts/{evil}/manifest.json", raw)
    for name in ("weights.safetensors", "programs/cpu-x86.pt2"):
        put(remote, f"artifacts/{evil}/{name}", (tmp_path / "made" / name).read_bytes())
    put(remote, "names/digits", evil.encode())
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ArtifactError, match=f"not a Headrace manifest: {field}: "):
        reader.open("digits")
    assert [path for path in sorted(tmp_path.rglob("*")) if path not in before] == []


def test_download_stops_beyond_size_in_manifest(
    reader: RemoteStore,
    artifact_id: str,
    remote: fsspec.AbstractFileSystem,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = f"artifacts/{artifact_id}/programs/cpu-x86.pt2"
    put(remote, name, b"program" + bytes(1_000_000))
    chunks: list[int] = []
    open_file = remote.open

    @contextmanager
    def counted(path: str, mode: str) -> Iterator[SimpleNamespace]:
        with open_file(path, mode) as file:

            def read(size: int) -> bytes:
                chunks.append(size)
                return bytes(file.read(size))

            yield SimpleNamespace(read=read)

    monkeypatch.setattr(remote, "open", counted)
    with pytest.raises(
        ArtifactCorruptError, match=f"{URI}/{name}: larger than the 7 bytes in the manifest"
    ):
        reader.open("digits")
    assert chunks == [8]  # one extra byte is enough
    assert cached_files(tmp_path) == []


def test_listing_is_not_cached(
    reader: RemoteStore,
    artifact_id: str,
    remote: fsspec.AbstractFileSystem,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Object stores' file systems cache listings, in which a revoked signature remains."""
    forgotten: list[str] = []
    monkeypatch.setattr(remote, "invalidate_cache", forgotten.append)
    reader.signatures(artifact_id)
    assert forgotten == [f"/headrace-test/store/signatures/{artifact_id}"]


def test_remote_store_finds_artifact_by_id_prefix_and_build(
    reader: RemoteStore, artifact_id: str
) -> None:
    assert reader.open(artifact_id).id == artifact_id
    assert reader.open(artifact_id[:10]).id == artifact_id
    build = reader.find_build(KEY)
    assert build is not None
    assert build.id == artifact_id
    assert reader.find_build("b" * 64) is None


def test_remote_store_names_known_artifacts(reader: RemoteStore, artifact_id: str) -> None:
    for ref in ("letters", "f" * 64, "../names/digits"):
        with pytest.raises(ArtifactNotFoundError, match=f"{URI}; names there: digits"):
            reader.open(ref)


def test_empty_store_has_no_names(reader: RemoteStore) -> None:
    with pytest.raises(ArtifactNotFoundError, match="names there: none"):
        reader.open("digits")


def test_changed_remote_file_is_refused_with_both_hashes(
    reader: RemoteStore, artifact_id: str, remote: fsspec.AbstractFileSystem, tmp_path: Path
) -> None:
    name = f"artifacts/{artifact_id}/programs/cpu-x86.pt2"
    put(remote, name, b"evil")
    with pytest.raises(ArtifactCorruptError) as caught:
        reader.open("digits")
    for part in (f"{URI}/{name}", sha256(b"evil").hexdigest(), sha256(b"program").hexdigest()):
        assert part in str(caught.value)
    assert cached_files(tmp_path) == []


def test_missing_remote_file_is_named(
    reader: RemoteStore, artifact_id: str, remote: fsspec.AbstractFileSystem, tmp_path: Path
) -> None:
    name = f"artifacts/{artifact_id}/weights.safetensors"
    remote.rm_file(f"/headrace-test/store/{name}")
    with pytest.raises(ArtifactCorruptError, match=f"{URI}/{name}: missing, although"):
        reader.open("digits")
    assert cached_files(tmp_path) == []


def test_build_of_deleted_artifact_is_absent(
    store: RemoteStore, artifact_id: str, remote: fsspec.AbstractFileSystem
) -> None:
    remote.rm(f"/headrace-test/store/artifacts/{artifact_id}", recursive=True)
    assert store.find_build(KEY) is None  # though its cache still holds the artifact


def test_file_system_errors_name_uri(tmp_path: Path) -> None:
    (tmp_path / "store").write_bytes(b"a file where a directory should be")
    uri = (tmp_path / "store").as_uri()
    store = RemoteStore.at(uri, tmp_path / "cache")
    (tmp_path / "w").write_bytes(b"trained")
    for fail in (
        lambda: store.open("digits"),
        lambda: store.find_build(KEY),
        lambda: store.reject("digits", KEY, {".json": b"{}"}),
        lambda: store.cache_step("k", tmp_path / "w"),
    ):
        with pytest.raises(ArtifactError, match=f"{uri}/.* cannot be reached: .*Not a directory"):
            fail()


def test_changed_remote_manifest_is_refused(
    reader: RemoteStore, artifact_id: str, remote: fsspec.AbstractFileSystem, tmp_path: Path
) -> None:
    put(remote, f"artifacts/{artifact_id}/manifest.json", b"{}")
    with pytest.raises(ArtifactCorruptError) as caught:
        reader.open("digits")
    for part in (f"{artifact_id}/manifest.json", artifact_id, sha256(b"{}").hexdigest()):
        assert part in str(caught.value)
    assert cached_files(tmp_path) == []


def test_manifest_with_path_outside_cache_is_refused(
    reader: RemoteStore, finished: Finished, remote: fsspec.AbstractFileSystem, tmp_path: Path
) -> None:
    data = json.loads(finished(tmp_path / "made"))
    data["files"]["../../../evil"] = data["files"]["weights.safetensors"]
    raw = json.dumps(data).encode()
    evil = content_id(raw)
    put(remote, f"artifacts/{evil}/manifest.json", raw)
    put(remote, "evil", b"weights")
    put(remote, "names/digits", evil.encode())
    with pytest.raises(ArtifactError, match="not a Headrace manifest"):
        reader.open("digits")
    assert not list(tmp_path.rglob("evil"))


def test_name_with_path_outside_cache_is_refused(
    reader: RemoteStore, finished: Finished, remote: fsspec.AbstractFileSystem, tmp_path: Path
) -> None:
    raw = finished(tmp_path / "made")
    put(remote, "outside/manifest.json", raw)
    for path in ("names/digits", f"builds/{KEY}"):
        put(remote, path, b"../outside")
    for read in (lambda: reader.open("digits"), lambda: reader.find_build(KEY)):
        with pytest.raises(ArtifactError, match=r"holds '\.\./outside', expected an artifact's id"):
            read()


def test_changed_cached_file_is_refused(reader: RemoteStore, artifact_id: str) -> None:
    (reader.open("digits").path / "programs" / "cpu-x86.pt2").write_bytes(b"evil")
    with pytest.raises(ArtifactCorruptError, match=sha256(b"evil").hexdigest()):
        reader.open("digits").file("programs/cpu-x86.pt2")


def test_interrupted_upload_is_absent(
    reader: RemoteStore, artifact_id: str, remote: fsspec.AbstractFileSystem
) -> None:
    artifact_id = "9" * 64  # some files are uploaded, and the manifest is last
    put(remote, f"artifacts/{artifact_id}/weights.safetensors", b"weights")
    with pytest.raises(ArtifactNotFoundError):
        reader.open(artifact_id)


def test_reports_and_step_weights_reach_other_nodes(
    store: RemoteStore, reader: RemoteStore, remote: fsspec.AbstractFileSystem, tmp_path: Path
) -> None:
    location = store.reject("digits", KEY, {".json": b"{}"})
    assert fsspec.open(location).open().read() == b"{}"
    assert reader.cached_step("k") is None
    (tmp_path / "w").write_bytes(b"trained")
    store.cache_step("k", tmp_path / "w")
    cached = reader.cached_step("k")
    assert cached is not None
    assert cached.read_bytes() == b"trained"
    assert cached_files(tmp_path) == ["steps/k.safetensors"]


def test_unknown_protocol_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"store 'nosuch://x' cannot be used.*headrace\[s3\]"):
        RemoteStore.at("nosuch://x", tmp_path)

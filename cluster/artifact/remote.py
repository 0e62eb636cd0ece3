"""Store behind an fsspec URI (``s3://``, ``gs://``, ``memory://``), with a local cache.

    publish: built in the cache → every file uploaded → the manifest last
    open:    downloaded into the cache once → every hash checked → renamed into place

An id without a manifest does not exist, so a job killed during the upload leaves no artifact that
could be opened.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import fsspec

from cluster.artifact.artifact import MANIFEST, Artifact, check_file, check_id
from cluster.artifact.entries import FileEntry
from cluster.artifact.local import KEY_ID, LocalStore
from cluster.artifact.manifest import Manifest
from cluster.artifact.references import checked_id, not_found, resolve
from cluster.errors import ArtifactCorruptError, ArtifactError, ArtifactNotFoundError

_CHUNK_BYTES = 8 * 2**20


class RemoteStore:
    """Store with the layout of :class:`LocalStore`, on any file system of fsspec."""

    def __init__(self, uri: str, filesystem: Any, base: str, cache: LocalStore) -> None:
        self.uri = uri
        self._fs = filesystem
        self._base = base.rstrip("/")
        self._cache = cache

    @staticmethod
    def at(uri: str, cache: Path | None = None) -> RemoteStore:
        """Connect to ``uri``; the cache defaults to ``~/.cache/headrace/store``.

        Raises ArtifactError for an unknown protocol or a missing package.
        """
        if cache is None:
            home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
            cache = home / "headrace" / "store" / sha256(uri.encode()).hexdigest()[:16]
        try:
            filesystem, base = fsspec.core.url_to_fs(uri)
        except (ValueError, ImportError) as error:
            raise ArtifactError(
                f"store {uri!r} cannot be used: {error}. For s3:// install 'headrace[s3]', "
                "for gs:// 'headrace[gcs]'"
            ) from error
        return RemoteStore(uri, filesystem, base, LocalStore(cache))

    def open(self, ref: str) -> Artifact:
        return self.fetch(self.find(ref))

    def find(self, ref: str) -> str:
        artifact_id = resolve(ref, lambda: self._list("artifacts"), self._find_name)
        if artifact_id is None:
            raise ArtifactNotFoundError(not_found(ref, self.uri, self._list("names")))
        return artifact_id

    def _find_name(self, name: str) -> str | None:
        value = self._read(f"names/{name}")
        return None if value is None else self._id(value, f"names/{name}")

    def fetch(self, artifact_id: str) -> Artifact:
        # Only artifacts/ID is written in the cache: the name and build key of the manifest are
        # untrusted.
        final = self._cache.root / "artifacts" / checked_id(artifact_id, "the requested id")
        if final.is_dir():
            return Artifact.read(final, artifact_id)
        folder = f"artifacts/{artifact_id}"
        raw, manifest = self._checked_manifest(artifact_id)
        with self._cache.building(f"fetch-{artifact_id}") as directory:
            if final.is_dir():  # fetched by another process meanwhile
                return Artifact.read(final, artifact_id)
            for name, entry in manifest.files.items():
                self._download(f"{folder}/{name}", directory / name, entry)
            (directory / MANIFEST).write_bytes(raw)
            return self._cache.adopt(Artifact(directory, manifest, artifact_id))

    def manifest(self, artifact_id: str) -> Manifest:
        if (self._cache.root / "artifacts" / checked_id(artifact_id, "the requested id")).is_dir():
            return self._cache.manifest(artifact_id)
        return self._checked_manifest(artifact_id)[1]

    def _checked_manifest(self, artifact_id: str) -> tuple[bytes, Manifest]:
        file = f"artifacts/{artifact_id}/{MANIFEST}"
        raw = self._read(file)
        if raw is None:
            raise ArtifactNotFoundError(f"artifact {artifact_id} is not in the store {self.uri}")
        check_id(raw, artifact_id, self._at(file))  # reject a wrong manifest before using it
        return raw, Manifest.from_json(raw, self._at(file))

    def _download(self, name: str, file: Path, entry: FileEntry) -> None:
        """Download one file of an artifact, limited to its size in the manifest; check its hash."""
        location = self._at(name)
        if not self._receive(name, file, entry.size_bytes):
            raise ArtifactCorruptError(
                f"{location}: missing, although the manifest names it; "
                "delete the artifact and build it again"
            )
        if file.stat().st_size > entry.size_bytes:
            raise ArtifactCorruptError(
                f"{location}: larger than the {entry.size_bytes} bytes in the manifest; "
                "delete the artifact and build it again"
            )
        check_file(file, entry, location)

    def find_build(self, recipe_key: str) -> Artifact | None:
        value = self._read(f"builds/{recipe_key}")
        if not value:
            return None
        artifact_id = self._id(value, f"builds/{recipe_key}")
        # Checked even if the cache holds the artifact: other nodes could not open it.
        if self._read(f"artifacts/{artifact_id}/{MANIFEST}") is None:
            return None  # deleted meanwhile
        return self.fetch(artifact_id)

    @contextmanager
    def building(self, recipe_key: str) -> Iterator[Path]:
        with self._cache.building(recipe_key) as workspace:
            yield workspace

    def publish(self, finished: Path) -> Artifact:
        artifact = self._cache.publish(finished)
        base = f"artifacts/{artifact.id}"
        for name in [*artifact.manifest.files, MANIFEST]:  # the manifest last
            self._send(artifact.path / name, f"{base}/{name}")
        self._put(f"names/{artifact.manifest.name}", str(artifact.id).encode())
        self._put(f"builds/{artifact.manifest.recipe_key}", str(artifact.id).encode())
        return artifact

    def reject(self, name: str, recipe_key: str, reports: dict[str, bytes]) -> str:
        paths = {f"rejected/{name}-{recipe_key[:12]}{suffix}": suffix for suffix in reports}
        for path, suffix in paths.items():
            self._put(path, reports[suffix])
        return self._at(next(iter(paths)))

    def checkpoints(self, key: str) -> Path:
        return self._cache.checkpoints(key)

    def drop_checkpoints(self, key: str) -> None:
        self._cache.drop_checkpoints(key)

    def signatures(self, artifact_id: str) -> dict[str, bytes]:
        folder = f"signatures/{checked_id(artifact_id, 'the requested id')}"
        # Never from the cache: a revoked signature must not count.
        signers = [name for name in self._list(folder) if re.fullmatch(KEY_ID, name)]
        contents = {name: self._read(f"{folder}/{name}") for name in signers}
        return {name: content for name, content in contents.items() if content is not None}

    def keep_signature(self, artifact_id: str, key_id: str, content: bytes) -> None:
        self._put(f"signatures/{artifact_id}/{key_id}", content)

    def calibration(self, key: str) -> bytes | None:
        return self._read(f"calibrations/{key}.json")

    def keep_calibration(self, key: str, content: bytes) -> None:
        self._put(f"calibrations/{key}.json", content)

    def cached_step(self, key: str) -> Path | None:
        cached = self._cache.cached_step(key)
        if cached is not None:
            return cached
        with self._cache.building(f"fetch-{key}") as directory:
            if self._receive(f"steps/{key}.safetensors", directory / "weights"):
                self._cache.cache_step(key, directory / "weights")
        return self._cache.cached_step(key)

    def cache_step(self, key: str, weights: Path) -> None:
        self._cache.cache_step(key, weights)
        self._send(weights, f"steps/{key}.safetensors")

    def _at(self, name: str) -> str:
        return f"{self.uri.rstrip('/')}/{name}"

    def _id(self, content: bytes, name: str) -> str:
        return checked_id(content.decode(errors="replace").strip(), self._at(name))

    @contextmanager
    def _reaching(self, name: str) -> Iterator[str]:
        """Yield the file system's path of ``name``; convert its errors to ArtifactError."""
        try:
            yield f"{self._base}/{name}"
        # File systems raise their client library's errors, many of which are not OSErrors.
        except Exception as error:
            raise ArtifactError(
                f"{self._at(name)} cannot be reached: {type(error).__name__}: {error}. Check the "
                "address, the permissions and the network"
            ) from error

    def _receive(self, name: str, file: Path, size_bytes: int | None = None) -> bool:
        """Download into ``file``; return False if the store has no such file.

        ``size_bytes``: expected size; the download of a larger file stops after one more byte.
        """
        remaining = sys.maxsize if size_bytes is None else size_bytes + 1
        with self._reaching(name) as path:
            file.parent.mkdir(parents=True, exist_ok=True)
            try:
                with file.open("wb") as received, self._fs.open(path, "rb") as sent:
                    while remaining and (chunk := sent.read(min(remaining, _CHUNK_BYTES))):
                        received.write(chunk)
                        remaining -= len(chunk)
            except FileNotFoundError:
                return False
        return True

    def _send(self, file: Path, name: str) -> None:
        with self._reaching(name) as path:
            self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
            self._fs.put_file(str(file), path)

    def _read(self, name: str) -> bytes | None:
        with self._reaching(name) as path:
            try:
                return bytes(self._fs.cat_file(path))
            except FileNotFoundError:
                return None

    def _put(self, name: str, content: bytes) -> None:
        with self._reaching(name) as path:
            self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
            self._fs.pipe_file(path, content)

    def _list(self, folder: str) -> list[str]:
        with self._reaching(folder) as path:
            try:
                # Files removed since, such as a revoked signature, must not be listed.
                self._fs.invalidate_cache(path)
                paths = self._fs.ls(path, detail=False)
            except FileNotFoundError:
                return []
        return sorted(path.rstrip("/").rpartition("/")[2] for path in paths)

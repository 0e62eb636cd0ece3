"""Store of artifacts in a directory, consistent after a kill of a job at any moment.

artifacts/ID/           finished artifacts: renamed into place whole, immutable afterwards
names/NAME              id of the newest artifact built under that name
builds/RECIPE_KEY       id of the artifact of exactly this build, which is not repeated
rejected/NAME-KEY.json  report of a build that the gate refused, and .html
kept/KEY/               checkpoints and journal of a running or killed build
signatures/ID/KEYID     ed25519 signature of an artifact's id by a key
calibrations/KEY.json   thresholds of a cascade of certain artifacts
steps/KEY.safetensors   float weights after a recipe's first steps, shared by equal beginnings
building/KEY/           a build or write in progress; its process holds KEY.lock
"""

from __future__ import annotations

import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.artifact.artifact import MANIFEST, Artifact
from cluster.artifact.manifest import Manifest, content_id
from cluster.artifact.references import checked_id, not_found, resolve
from cluster.artifact.workspace import sweep, workspace
from cluster.errors import ArtifactError, ArtifactNotFoundError

KEY_ID = r"[0-9a-f]{32}"
"""Pattern of a signing key's id, the name of the file with its signature."""

KEPT_S = 14 * 24 * 3600
"""Lifetime of an unused resumable build, in seconds."""


class LocalStore:
    """A store in a directory: local, or shared between nodes."""

    def __init__(self, root: Path) -> None:
        if not root.is_absolute():
            raise ArtifactError(
                f"store {str(root)!r} is relative; expected an absolute directory or a URI, "
                "because jobs and replicas run in other directories"
            )
        self.root = root
        self._workspaces = root / "building"

    def open(self, ref: str) -> Artifact:
        return self.fetch(self.find(ref))

    def find(self, ref: str) -> str:
        with _reading(self.root):
            if (artifact_id := resolve(ref, self._ids, self._find_name)) is None:
                raise ArtifactNotFoundError(not_found(ref, self.root, self._names()))
            return artifact_id

    def fetch(self, artifact_id: str) -> Artifact:
        path = self.root / "artifacts" / checked_id(artifact_id, "the requested id")
        with _reading(path):
            if not path.is_dir():
                raise ArtifactNotFoundError(not_found(artifact_id, self.root, self._names()))
        return Artifact.read(path, artifact_id)

    def manifest(self, artifact_id: str) -> Manifest:
        return self.fetch(artifact_id).manifest

    def find_build(self, recipe_key: str) -> Artifact | None:
        file = self.root / "builds" / recipe_key
        with _reading(file):
            if (value := _read(file)) is None:
                return None
            artifact_id = checked_id(value, file)
            if not (self.root / "artifacts" / artifact_id).is_dir():
                return None  # deleted meanwhile
        return self.fetch(artifact_id)

    @contextmanager
    def building(self, recipe_key: str) -> Iterator[Path]:
        sweep(self._workspaces)
        with workspace(self._workspaces, recipe_key) as directory:
            yield directory

    def publish(self, finished: Path) -> Artifact:
        artifact_id = content_id((finished / MANIFEST).read_bytes())
        artifact = Artifact.read(finished, artifact_id)
        artifact.verify()
        artifact = self.adopt(artifact)
        self._write(f"names/{artifact.manifest.name}", artifact_id)
        self._write(f"builds/{artifact.manifest.recipe_key}", artifact_id)
        return artifact

    def adopt(self, finished: Artifact) -> Artifact:
        """Move a checked artifact in under its id, without a name."""
        final = self.root / "artifacts" / str(finished.id)
        final.parent.mkdir(parents=True, exist_ok=True)
        for path in [finished.path, *finished.path.rglob("*")]:
            _flush(path)
        if not final.exists():
            finished.path.rename(final)
            _flush(final.parent)
        return Artifact(final, finished.manifest, finished.id)

    def reject(self, name: str, recipe_key: str, reports: dict[str, bytes]) -> str:
        written = [
            self._write(f"rejected/{name}-{recipe_key[:12]}{suffix}", content)
            for suffix, content in reports.items()
        ]
        return str(written[0])

    def checkpoints(self, key: str) -> Path:
        for old in (self.root / "kept").glob("*"):
            if time.time() - old.stat().st_mtime > KEPT_S:
                shutil.rmtree(old, ignore_errors=True)
        path = self.root / "kept" / key
        path.mkdir(parents=True, exist_ok=True)
        os.utime(path)
        return path

    def drop_checkpoints(self, key: str) -> None:
        shutil.rmtree(self.root / "kept" / key, ignore_errors=True)

    def signatures(self, artifact_id: str) -> dict[str, bytes]:
        folder = self.root / "signatures" / checked_id(artifact_id, "the requested id")
        with _reading(folder):
            files = [folder / name for name in _list(folder) if re.fullmatch(KEY_ID, name)]
            return {path.name: path.read_bytes() for path in files if path.is_file()}

    def keep_signature(self, artifact_id: str, key_id: str, content: bytes) -> None:
        name = f"signatures/{checked_id(artifact_id, 'the artifact to sign')}/{key_id}"
        with _writing(self.root / name):
            self._write(name, content)

    def calibration(self, key: str) -> bytes | None:
        path = self.root / "calibrations" / f"{key}.json"
        with _reading(path):
            return path.read_bytes() if path.is_file() else None

    def keep_calibration(self, key: str, content: bytes) -> None:
        name = f"calibrations/{key}.json"
        with _writing(self.root / name):
            self._write(name, content)

    def cached_step(self, key: str) -> Path | None:
        path = self.root / "steps" / f"{key}.safetensors"
        return path if path.is_file() else None

    def cache_step(self, key: str, weights: Path) -> None:
        self._write(f"steps/{key}.safetensors", weights.read_bytes())

    def _ids(self) -> list[str]:
        return _list(self.root / "artifacts")

    def _find_name(self, name: str) -> str | None:
        file = self.root / "names" / name
        return None if (value := _read(file)) is None else checked_id(value, file)

    def _names(self) -> list[str]:
        return _list(self.root / "names")

    def _write(self, name: str, content: str | bytes) -> Path:
        """Write a file atomically: readers see the old content or the new one."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with workspace(self._workspaces, uuid.uuid4().hex) as directory:
            new = directory / path.name
            new.write_bytes(content.encode() if isinstance(content, str) else content)
            _flush(new)
            new.replace(path)
        return path


def _read(path: Path) -> str | None:
    return path.read_bytes().decode(errors="replace").strip() if path.is_file() else None


def _list(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except FileNotFoundError:
        return []


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Convert errors of reading to ArtifactError with the path."""
    try:
        yield
    except OSError as error:
        raise ArtifactError(
            f"{error.filename or path}: cannot be read: {error.strerror}; check the path and "
            "its permissions"
        ) from error


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Convert errors of writing to ArtifactError with the path."""
    try:
        yield
    except OSError as error:
        raise ArtifactError(
            f"{error.filename or path}: cannot be written: {error.strerror}; use another store, "
            "or change the permissions of this one"
        ) from error


def _flush(path: Path) -> None:
    """Flush a file, or a directory's entries, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

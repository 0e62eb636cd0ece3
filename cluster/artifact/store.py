"""Stores of artifacts, and the kind of store of a location.

an absolute directory → local.py        an fsspec URI → remote.py
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from cluster.artifact.artifact import Artifact
from cluster.artifact.local import LocalStore
from cluster.artifact.manifest import Manifest


class ArtifactStore(Protocol):
    """Store of artifacts: a :class:`LocalStore`, or a remote one with a local cache."""

    def open(self, ref: str) -> Artifact:
        """Open the artifact of a name, id or prefix of an id; ArtifactNotFoundError if absent."""

    def find(self, ref: str) -> str:
        """Return the id of a name, an id or a prefix of one, without downloading anything.

        ArtifactNotFoundError if absent, ArtifactError if the prefix is ambiguous.
        """

    def fetch(self, artifact_id: str) -> Artifact:
        """Return the artifact of a whole id; ArtifactNotFoundError if absent."""

    def manifest(self, artifact_id: str) -> Manifest:
        """Return the manifest of that (whole) id, without any other file of the artifact.

        Raises ArtifactNotFoundError for an unknown id.
        """

    def find_build(self, recipe_key: str) -> Artifact | None:
        """Return the finished artifact of exactly this build, or None."""

    def building(self, recipe_key: str) -> AbstractContextManager[Path]:
        """Return a context with an empty build directory; one process per key, others wait."""

    def publish(self, finished: Path) -> Artifact:
        """Move a finished directory out of its workspace, visible at once under its id and name.

        Raises ArtifactCorruptError if a file does not match its manifest.
        """

    def reject(self, name: str, recipe_key: str, reports: dict[str, bytes]) -> str:
        """Store the reports of a refused build, by suffix such as ``.json``.

        Returns the location of the first one.
        """

    def checkpoints(self, key: str) -> Path:
        """Return a local directory for checkpoints, which the same build finds after a kill."""

    def drop_checkpoints(self, key: str) -> None:
        """Remove the directory of :meth:`checkpoints`: the build is finished."""

    def signatures(self, artifact_id: str) -> dict[str, bytes]:
        """Return key id → unchecked signature of the artifact of a whole id.

        The artifact itself need not exist.
        """

    def keep_signature(self, artifact_id: str, key_id: str, content: bytes) -> None:
        """Store a key's signature beside the artifact; it replaces an earlier one of that key."""

    def calibration(self, key: str) -> bytes | None:
        """Return the content of :meth:`keep_calibration` under this key, or None."""

    def keep_calibration(self, key: str, content: bytes) -> None:
        """Store the calibration of a set of artifacts; it replaces an earlier one."""

    def cached_step(self, key: str) -> Path | None:
        """Return the weights file of an earlier job under this key, or None."""

    def cache_step(self, key: str, weights: Path) -> None:
        """Store a weights file for later jobs."""


def default_store() -> str:
    """Return ``HEADRACE_STORE``, else ``~/.headrace/store``."""
    return os.environ.get("HEADRACE_STORE") or str(Path.home() / ".headrace" / "store")


def open_store(location: str | None) -> ArtifactStore:
    """Open the store at an absolute directory or fsspec URI; None: :func:`default_store`."""
    location = location or default_store()
    if "://" in location:
        # Imported here: only remote stores need fsspec and its file systems.
        from cluster.artifact.remote import RemoteStore

        return RemoteStore.at(location)
    return LocalStore(Path(location).expanduser())

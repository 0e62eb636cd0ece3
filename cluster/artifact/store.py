"""Where artifacts are kept, and which kind of store a location stands for.

an absolute directory → local.py        an fsspec URI → remote.py
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from cluster.artifact.artifact import Artifact
from cluster.artifact.local import LocalStore


class ArtifactStore(Protocol):
    """Where artifacts are kept: a :class:`LocalStore`, or a remote one with a local cache."""

    def open(self, ref: str) -> Artifact:
        """The artifact of that name, id, or beginning of an id; ArtifactNotFoundError if none."""

    def find(self, ref: str) -> str:
        """The id that a name, an id or the beginning of one stands for; nothing is downloaded.

        ArtifactNotFoundError if there is none, ArtifactError if several begin so.
        """

    def fetch(self, artifact_id: str) -> Artifact:
        """The artifact of that (whole) id; ArtifactNotFoundError if there is none."""

    def find_build(self, recipe_key: str) -> Artifact | None:
        """The finished artifact of that exact build, if there is one."""

    def building(self, recipe_key: str) -> AbstractContextManager[Path]:
        """An empty directory to build in; one process at a time per key, others wait."""

    def publish(self, finished: Path) -> Artifact:
        """Move a finished directory out of its workspace: visible under its id and name at once.

        Raises ArtifactCorruptError if a file is not the one its manifest names.
        """

    def reject(self, name: str, recipe_key: str, reports: dict[str, bytes]) -> str:
        """Keep the reports of a refused build, by suffix such as ``.json``; returns where the
        first of them is."""

    def kept(self, key: str) -> Path:
        """Return a local directory for checkpoints, which the same build finds after a kill."""

    def drop_kept(self, key: str) -> None:
        """Remove that directory: the build is finished."""

    def signatures(self, artifact_id: str) -> dict[str, bytes]:
        """Key id → signature of the artifact of that (whole) id, as they were kept; unchecked.

        The artifact itself is not asked for."""

    def keep_signature(self, artifact_id: str, key_id: str, content: bytes) -> None:
        """Keep a key's signature beside the artifact, in place of an earlier one of that key."""

    def calibration(self, key: str) -> bytes | None:
        """What was kept under this key by :meth:`keep_calibration`, if anything."""

    def keep_calibration(self, key: str, content: bytes) -> None:
        """Keep what was found about artifacts that answer together; the newest stands."""

    def cached_step(self, key: str) -> Path | None:
        """The weights file that an earlier job left under this key, if any."""

    def cache_step(self, key: str, weights: Path) -> None:
        """Keep a weights file for later jobs."""


def default_store() -> str:
    """``HEADRACE_STORE``, else ``~/.headrace/store``."""
    return os.environ.get("HEADRACE_STORE") or str(Path.home() / ".headrace" / "store")


def open_store(location: str | None) -> ArtifactStore:
    """The store at an absolute directory or fsspec URI; None takes :func:`default_store`."""
    location = location or default_store()
    if "://" in location:
        # fsspec and its file systems are imported for remote stores alone.
        from cluster.artifact.remote import RemoteStore

        return RemoteStore.at(location)
    return LocalStore(Path(location).expanduser())

"""Lookup of an artifact by what a user names: a reference in a store, or a directory.

NAME, ID, prefix of an id, NAME@ID → store → Artifact
directory with a manifest          → its content id → Artifact
"""

from __future__ import annotations

from pathlib import Path

from cluster.artifact.artifact import MANIFEST, Artifact
from cluster.artifact.manifest import content_id
from cluster.artifact.store import open_store
from cluster.errors import ArtifactError


def absolute(store: str) -> str:
    """Return a store's location for processes that run in other directories."""
    return store if "://" in store else str(Path(store).expanduser().absolute())


def open_artifact(ref: str, store: str | None) -> Artifact:
    """Open the artifact of a name, id, prefix of an id, or directory.

    ``store``: directory or fsspec URI; None: the default store. ArtifactNotFoundError if absent,
    ArtifactError for a directory or a store that cannot be read.
    """
    if not is_directory(ref):
        return open_store(absolute(store) if store else None).open(ref)
    file = Path(ref) / MANIFEST
    try:
        artifact_id = content_id(file.read_bytes())
    except OSError as error:
        raise ArtifactError(f"{file}: cannot be read: {error.strerror}") from error
    return Artifact.read(Path(ref), artifact_id)


def is_directory(ref: str) -> bool:
    """Return whether a reference is the directory of an artifact."""
    try:
        return (Path(ref) / MANIFEST).is_file()
    except OSError:  # the text is too long for a path
        return False

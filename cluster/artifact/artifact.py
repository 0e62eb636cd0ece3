"""One opened artifact: a directory whose files are hashed before they are read."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path

from cluster.artifact.entries import FileEntry
from cluster.artifact.manifest import FILE_NAME, Manifest, content_id
from cluster.errors import ArtifactCorruptError, ArtifactError

MANIFEST = FILE_NAME
WEIGHTS = "weights.safetensors"
REPORT = "report.json"
REPORT_PAGE = "report.html"
TOKENIZER = "tokenizer.json"


@dataclass(frozen=True)
class Artifact:
    """A directory with a manifest. ``id`` is None during the build."""

    path: Path
    manifest: Manifest
    id: str | None

    @staticmethod
    def read(path: Path, expected_id: str | None = None) -> Artifact:
        """Open the artifact at ``path``.

        With ``expected_id`` the manifest itself must hash to it.
        Raises ArtifactCorruptError with both hashes, or ArtifactError for a foreign directory.
        """
        file = path / MANIFEST
        try:
            raw = file.read_bytes()
        except OSError as error:
            raise ArtifactError(f"{file}: cannot be read: {error.strerror}") from error
        if expected_id is not None:
            check_id(raw, expected_id, file)
        return Artifact(path, Manifest.from_json(raw, str(file)), expected_id)

    def file(self, name: str) -> Path:
        """Return the path of one of the artifact's files, after a check of its bytes.

        Raises ArtifactError for a file unknown to the manifest, ArtifactCorruptError if the bytes
        do not match the manifest.
        """
        entry = self.manifest.files.get(name)
        if entry is None:
            raise ArtifactError(f"{self.path}: file {name!r} is unknown to the manifest")
        path = self.path / name
        check_file(path, entry, path)
        return path

    def verify(self) -> None:
        """Check every file; raises as :meth:`file` does."""
        for name in self.manifest.files:
            self.file(name)


def check_id(manifest: bytes, expected_id: str, location: object) -> None:
    """Raise ArtifactCorruptError, naming ``location``, unless the manifest hashes to the id."""
    if (actual := content_id(manifest)) != expected_id:
        raise ArtifactCorruptError(
            f"{location}: sha256 is {actual}, expected {expected_id}; "
            "delete the artifact and build it again"
        )


def check_file(path: Path, entry: FileEntry, location: object) -> None:
    """Raise ArtifactCorruptError, naming ``location``, unless the file's bytes match the entry."""
    if (actual := describe(path)).sha256 != entry.sha256:
        raise ArtifactCorruptError(
            f"{location}: sha256 is {actual.sha256}, the manifest names {entry.sha256}; "
            "delete the artifact and build it again"
        )


def describe(path: Path) -> FileEntry:
    """Return hash and size of a file; ArtifactCorruptError if it cannot be read."""
    try:
        with path.open("rb") as stream:
            return FileEntry(
                sha256=file_digest(stream, "sha256").hexdigest(), size_bytes=path.stat().st_size
            )
    except OSError as error:
        raise ArtifactCorruptError(f"{path}: cannot be read: {error.strerror}") from error

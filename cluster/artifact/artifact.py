"""One opened artifact: a directory whose files are hashed before anything reads them."""

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
    """A directory with a manifest. ``id`` is None while the job is still building it."""

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
        """Path of one of the artifact's files, after its bytes were checked.

        Raises ArtifactError if the manifest does not name it, ArtifactCorruptError if the bytes
        are not the ones the manifest names.
        """
        entry = self.manifest.files.get(name)
        if entry is None:
            raise ArtifactError(f"{self.path}: the manifest names no file {name!r}")
        path = self.path / name
        check_file(path, entry, path)
        return path

    def verify(self) -> None:
        """Check every file; raises as :meth:`file` does."""
        for name in self.manifest.files:
            self.file(name)


def check_id(manifest: bytes, expected_id: str, where: object) -> None:
    """ArtifactCorruptError, naming ``where``, unless the manifest's bytes hash to the id."""
    if (found := content_id(manifest)) != expected_id:
        raise ArtifactCorruptError(
            f"{where}: sha256 is {found}, expected {expected_id}; "
            "delete the artifact and build it again"
        )


def check_file(path: Path, entry: FileEntry, where: object) -> None:
    """ArtifactCorruptError, naming ``where``, unless the file's bytes hash to the entry's."""
    if (found := describe(path)).sha256 != entry.sha256:
        raise ArtifactCorruptError(
            f"{where}: sha256 is {found.sha256}, the manifest names {entry.sha256}; "
            "delete the artifact and build it again"
        )


def describe(path: Path) -> FileEntry:
    """Hash and size of a file; ArtifactCorruptError if it is not there."""
    try:
        with path.open("rb") as stream:
            return FileEntry(
                sha256=file_digest(stream, "sha256").hexdigest(), size_bytes=path.stat().st_size
            )
    except OSError as error:
        raise ArtifactCorruptError(f"{path}: cannot be read: {error.strerror}") from error

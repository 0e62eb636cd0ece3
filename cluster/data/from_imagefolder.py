"""``imagefolder:PATH``: one folder per class, image files anywhere below it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cluster import fingerprint
from cluster.data.samples import LabelledSet, Raw, labelled_set
from cluster.errors import SourceError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")
"""Suffixes of sample files; others are ignored."""


@dataclass(frozen=True)
class FileItems:
    """Image files, read from disk on each access."""

    paths: list[Path]

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int) -> Raw:
        try:
            return self.paths[index].read_bytes()
        except OSError as error:
            raise SourceError(f"{self.paths[index]} cannot be read: {error.strerror}") from error

    def name(self, index: int) -> str:
        return str(self.paths[index])


def read(path: str) -> LabelledSet:
    """Read one class per folder in ``path``, in sorted order, as torchvision numbers them.

    Raises :class:`SourceError` when the folder cannot be read, contains no class folders, or a
    class folder contains no image.
    """
    root = Path(path)
    try:
        folders = sorted(
            entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith(".")
        )
        files_of = [_images(folder) for folder in folders]
    except OSError as error:
        raise SourceError(
            f"imagefolder:{path}: {error.filename or path} cannot be read: {error.strerror}"
        ) from error
    if not folders:
        raise SourceError(
            f"imagefolder:{path} contains no folders; expected one folder per class, with image "
            f"files in it"
        )
    for folder, files in zip(folders, files_of, strict=True):
        if not files:
            raise SourceError(
                f"imagefolder:{path}: the class folder {folder.name!r} contains no image file "
                f"({', '.join(SUFFIXES)}); add some or remove the folder"
            )
    paths = [file for files in files_of for file in files]
    labels = np.repeat(np.arange(len(folders)), [len(files) for files in files_of])
    try:
        # A file that cannot be opened is no part of the content; it is counted when it is read.
        identity = fingerprint.of_files(root, [file for file in paths if os.access(file, os.R_OK)])
    except OSError as error:
        raise SourceError(
            f"imagefolder:{path}: {error.filename} cannot be read: {error.strerror}"
        ) from error
    names = [folder.name for folder in folders]
    return labelled_set(FileItems(paths), labels, names, identity, f"imagefolder:{path}")


def _images(folder: Path) -> list[Path]:
    """Return all image files below ``folder``, sorted; OSError if a folder cannot be listed."""
    return sorted(
        Path(parent, name)
        for parent, _, names in os.walk(folder, onerror=_raise)
        for name in names
        if name.lower().endswith(SUFFIXES) and not name.startswith(".")
    )


def _raise(error: OSError) -> None:
    raise error

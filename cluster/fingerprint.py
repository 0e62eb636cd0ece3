"""Fingerprints of sources: a sha256 that identifies the inputs of a build."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

CONTENT_BYTES = 2**30
"""Files of up to 1 GiB in total are hashed by content; larger sets would take minutes."""


def of_files(root: Path, files: Sequence[Path]) -> str:
    """Return the fingerprint of ``files``, named by their paths below ``root``, in the given order.

    It covers names and contents up to :data:`CONTENT_BYTES`; beyond, names, sizes and modification
    times, which differ for a copy of the data. OSError when a file cannot be read.
    """
    stats = [file.stat() for file in files]
    by_content = sum(stat.st_size for stat in stats) <= CONTENT_BYTES
    digest = hashlib.sha256(b"content" if by_content else b"stat")
    for file, stat in zip(files, stats, strict=True):
        _add(digest, file.relative_to(root).as_posix().encode())
        if by_content:
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        else:
            _add(digest, f"{stat.st_size} {stat.st_mtime_ns}".encode())
    return digest.hexdigest()


def of_parts(parts: Iterable[bytes | str | np.ndarray]) -> str:
    """Return the fingerprint of values in memory, including datatype and shape of arrays."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            _add(digest, f"{part.dtype.str} {part.shape}".encode())
            _add(digest, np.ascontiguousarray(part).tobytes())
        else:
            _add(digest, part.encode() if isinstance(part, str) else part)
    return digest.hexdigest()


def _add(digest: hashlib._Hash, value: bytes) -> None:
    # The length prefix separates ["ab", "c"] from ["a", "bc"].
    digest.update(len(value).to_bytes(8, "little"))
    digest.update(value)

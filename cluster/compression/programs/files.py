"""Paths of a program's files in an artifact under construction.

the whole model   programs/TARGET.SUFFIX
a shard of it     shards/LAYOUT/stage-S.rank-R.SUFFIX
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ProgramFiles:
    """Files of one program: ``artifact/folder/stem.SUFFIX``."""

    artifact: Path
    """Folder of the artifact under construction."""

    folder: str
    stem: str
    static_batches: tuple[int, ...] = ()
    """Batch sizes with a file of static shapes each."""

    def name(self, suffix: str) -> str:
        """Return the path inside the artifact."""
        return f"{self.folder}/{self.stem}.{suffix}"

    def file(self, suffix: str) -> Path:
        """Return the path to write to. The folder exists."""
        return self.artifact / self.name(suffix)

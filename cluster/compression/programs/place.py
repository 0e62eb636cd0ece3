"""Where in the artifact a program's files go, and what they are called.

the whole model   programs/TARGET.SUFFIX
a shard of it     shards/LAYOUT/stage-S.rank-R.SUFFIX
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Place:
    """A folder of the artifact that is being built in ``workspace``, and a name in it."""

    workspace: Path
    folder: str
    stem: str
    static_batches: tuple[int, ...] = ()
    """Batch sizes for which static shapes are built too."""

    def name(self, suffix: str) -> str:
        """Path inside the artifact."""
        return f"{self.folder}/{self.stem}.{suffix}"

    def file(self, suffix: str) -> Path:
        """Where to write it; the folder is there."""
        return self.workspace / self.name(suffix)

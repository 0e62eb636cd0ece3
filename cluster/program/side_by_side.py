"""All tensor ranks of one stage in one process: for measuring and for tests without processes.

arrays → a thread per rank ─ StageProgram.run, all-reduces among them ─→ what rank 0 says
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from cluster.artifact.artifact import Artifact
from cluster.artifact.layout import Layout
from cluster.program import program as programs
from cluster.program.stage import StageProgram


class StageRanks:
    """The shards of one stage; close it after use."""

    def __init__(self, ranks: Sequence[StageProgram]) -> None:
        self._ranks = list(ranks)
        self._pool = ThreadPoolExecutor(len(self._ranks)) if len(self._ranks) > 1 else None

    @staticmethod
    def load(artifact: Artifact, layout: Layout, stage: int, compute_threads: int) -> StageRanks:
        """Load every rank's program; raises as :func:`cluster.program.program.load_entry` does."""
        ranks = []
        for tp_rank in range(layout.tensor):
            shard = layout.shard(stage, tp_rank)
            program = programs.load_entry(artifact, shard.program, compute_threads)
            ranks.append(StageProgram(layout, shard, program))
        return StageRanks(ranks)

    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """One batch through the stage; ProgramError as any rank raises it."""
        if self._pool is None:
            return self._ranks[0].run(arrays)
        asked = [self._pool.submit(rank.run, arrays) for rank in self._ranks]
        return [each.result() for each in asked][0]

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown()

"""All tensor ranks of one stage in one process, for measurements and tests.

arrays of each rank → a thread per rank ─ StageProgram.run, all-reduces among them ─→ outputs
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from cluster.artifact.artifact import Artifact
from cluster.artifact.layout import Layout, Shard
from cluster.program import program as programs
from cluster.program.aoti import create_group, open_group, runner_of
from cluster.program.collective import thread_groups
from cluster.program.stage import StageProgram


class StageRanks:
    """Shards of one stage. Close it after use."""

    def __init__(self, ranks: Sequence[StageProgram]) -> None:
        self._ranks = list(ranks)
        self._pool = ThreadPoolExecutor(len(self._ranks)) if len(self._ranks) > 1 else None

    @staticmethod
    def load(artifact: Artifact, layout: Layout, stage: int, compute_threads: int) -> StageRanks:
        """Load every rank's program; raises as :func:`cluster.program.program.load_entry` does."""
        shards = [layout.shard(stage, tp_rank) for tp_rank in range(layout.tensor)]
        ranks = []
        for shard, group in zip(shards, _groups(artifact, shards), strict=True):
            program = programs.load_entry(artifact, shard.program, compute_threads, group)
            ranks.append(StageProgram(layout, shard, program))
        return StageRanks(ranks)

    def run(self, arrays: Sequence[Sequence[np.ndarray]]) -> list[list[np.ndarray]]:
        """Run one batch through the stage: each rank's arriving arrays in, its leaving arrays out.

        Raises ProgramError as any rank does.
        """
        if self._pool is None:
            return [self._ranks[0].run(arrays[0])]
        futures = [
            self._pool.submit(rank.run, inputs)
            for rank, inputs in zip(self._ranks, arrays, strict=True)
        ]
        return [future.result() for future in futures]

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown()


def _groups(artifact: Artifact, shards: Sequence[Shard]) -> Sequence[Any]:
    """Return a group per rank, in the programs' form; None for a stage of one rank."""
    if len(shards) == 1:
        return [None]
    if (runner := runner_of(artifact, shards[0].program)) is None:
        return thread_groups(len(shards))
    first = create_group(runner, len(shards))
    rest = [open_group(runner, first.address, rank) for rank in range(1, len(shards))]
    return [first, *rest]

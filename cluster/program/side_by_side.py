"""All tensor ranks of one stage in one process: for measuring and for tests without processes.

arrays of each rank → a thread per rank ─ StageProgram.run, all-reduces among them ─→ likewise
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
    """The shards of one stage; close it after use."""

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
        """One batch through the stage: what arrives at each rank in, what leaves each out.

        ProgramError as any rank raises it.
        """
        if self._pool is None:
            return [self._ranks[0].run(arrays[0])]
        asked = [
            self._pool.submit(rank.run, own) for rank, own in zip(self._ranks, arrays, strict=True)
        ]
        return [each.result() for each in asked]

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown()


def _groups(artifact: Artifact, shards: Sequence[Shard]) -> Sequence[Any]:
    """A group per rank, as the programs take them; None for a stage of one."""
    if len(shards) == 1:
        return [None]
    if (runner := runner_of(artifact, shards[0].program)) is None:
        return thread_groups(len(shards))
    first = create_group(runner, len(shards))
    others = [open_group(runner, first.address, rank) for rank in range(1, len(shards))]
    return [first, *others]

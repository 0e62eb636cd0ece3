"""Numbering of the processes of stages × tensor ranks; the only place that assigns ranks.

    replica 0 → stage 0: ranks 1..T → stage 1: ranks T+1..2T → … → (last stage, tensor rank 0) → 0

The replica feeds every tensor rank of stage 0. Tensor rank r of a stage feeds tensor rank r of
the next one. Tensor rank 0 of the last stage answers the replica: all tensor ranks of a stage hold
the same result, because the reductions inside it have already combined them.
"""

from __future__ import annotations

from dataclasses import dataclass

REPLICA = 0
"""Transport rank of the replica process."""


@dataclass(frozen=True)
class Topology:
    """``stages`` pipeline stages of ``tensor_ranks`` shards each, and the replica."""

    stages: int
    tensor_ranks: int = 1

    def __post_init__(self) -> None:
        if self.stages < 1 or self.tensor_ranks < 1:
            raise ValueError(
                f"{self.stages} stages of {self.tensor_ranks} tensor ranks: expected 1 or more "
                "of each"
            )

    @property
    def size(self) -> int:
        """Number of processes, including the replica."""
        return 1 + self.stages * self.tensor_ranks

    @property
    def shards(self) -> list[tuple[int, int]]:
        """(stage, tensor rank) of every shard, in the order of their transport ranks."""
        return [(s, r) for s in range(self.stages) for r in range(self.tensor_ranks)]

    def rank(self, stage: int, tensor_rank: int) -> int:
        """Return the transport rank of a shard."""
        if not (0 <= stage < self.stages and 0 <= tensor_rank < self.tensor_ranks):
            raise ValueError(f"unknown shard ({stage}, {tensor_rank}) of {self}")
        return 1 + stage * self.tensor_ranks + tensor_rank

    def tensor_group(self, stage: int) -> list[int]:
        """Return the transport ranks of a stage's shards, in the order of their tensor ranks."""
        return [self.rank(stage, r) for r in range(self.tensor_ranks)]

    @property
    def entries(self) -> list[int]:
        """Ranks that receive each micro-batch from the replica."""
        return self.tensor_group(0)

    @property
    def exit(self) -> int:
        """Rank that sends the answers to the replica."""
        return self.rank(self.stages - 1, 0)

    def source(self, stage: int, tensor_rank: int) -> int:
        """Return the rank from which a shard receives."""
        return REPLICA if stage == 0 else self.rank(stage - 1, tensor_rank)

    def targets(self, stage: int, tensor_rank: int) -> list[int]:
        """Return the ranks to which a shard sends; empty for the last tensor ranks above 0."""
        if stage + 1 < self.stages:
            return [self.rank(stage + 1, tensor_rank)]
        return [REPLICA] if tensor_rank == 0 else []

"""Who is who in a pipeline of stages × tensor ranks: the one place that numbers its processes.

    replica 0 → stage 0: ranks 1..T → stage 1: ranks T+1..2T → … → (last stage, tensor rank 0) → 0

The replica feeds every tensor rank of stage 0. Tensor rank r of a stage feeds tensor rank r of
the next one, and tensor rank 0 of the last stage answers the replica: within a stage all tensor
ranks hold the same result, for the reductions inside it have already joined them.
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
                f"{self.stages} stages of {self.tensor_ranks} tensor ranks: give at least 1 of each"
            )

    @property
    def size(self) -> int:
        """How many processes there are, with the replica."""
        return 1 + self.stages * self.tensor_ranks

    @property
    def shards(self) -> list[tuple[int, int]]:
        """(stage, tensor rank) of every shard, in the order of their transport ranks."""
        return [(s, r) for s in range(self.stages) for r in range(self.tensor_ranks)]

    def rank(self, stage: int, tensor_rank: int) -> int:
        """Transport rank of a shard."""
        if not (0 <= stage < self.stages and 0 <= tensor_rank < self.tensor_ranks):
            raise ValueError(f"there is no shard ({stage}, {tensor_rank}) in {self}")
        return 1 + stage * self.tensor_ranks + tensor_rank

    def tensor_group(self, stage: int) -> list[int]:
        """Transport ranks of a stage's shards, in the order of their tensor ranks."""
        return [self.rank(stage, r) for r in range(self.tensor_ranks)]

    @property
    def entries(self) -> list[int]:
        """Whom the replica sends each micro-batch to."""
        return self.tensor_group(0)

    @property
    def exit(self) -> int:
        """Whom the replica receives the answers from."""
        return self.rank(self.stages - 1, 0)

    def source(self, stage: int, tensor_rank: int) -> int:
        """Whom a shard receives from."""
        return REPLICA if stage == 0 else self.rank(stage - 1, tensor_rank)

    def targets(self, stage: int, tensor_rank: int) -> list[int]:
        """Whom a shard sends to: nobody, for the last stage's tensor ranks but the first."""
        if stage + 1 < self.stages:
            return [self.rank(stage + 1, tensor_rank)]
        return [REPLICA] if tensor_rank == 0 else []

"""Health check of a model's replica.

compute thread ended, shard unavailable → error
recent batch, shards that move          → healthy
otherwise                               → one item through the batcher
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from cluster.errors import GroupLostError, ProgramError

IDLE_BEFORE_PROBE_S = 5.0
"""A replica that finished a batch within this time is healthy without a probe."""

PROBE_TIMEOUT_S = 8.0
"""Timeout of the forward pass of a health check, in seconds; three failures end a replica."""


class Batches(Protocol):
    """The part of a batcher that a health check needs."""

    @property
    def alive(self) -> bool: ...

    @property
    def last_finished(self) -> float: ...

    def submit(self, arrays: Sequence[np.ndarray]) -> Awaitable[object]: ...


class Shards(Protocol):
    """The part of a sharded program that a health check needs."""

    @property
    def broken(self) -> str | None: ...

    @property
    def moving(self) -> bool: ...


@dataclass(frozen=True)
class Health:
    """Health of one replica; ``probe`` is one item for each input of its model."""

    batches: Batches
    probe: Sequence[np.ndarray]
    shards: Shards | None = None

    async def check(self) -> None:
        """Check the replica.

        Raises ProgramError if the compute thread has ended or hangs, or the program fails.
        GroupLostError if a shard is unavailable.
        """
        if not self.batches.alive:
            raise ProgramError("the compute thread has ended")
        if self.shards is not None and self.shards.broken is not None:
            raise GroupLostError(self.shards.broken)
        if self.shards is not None and self.shards.moving:
            return  # requests wait during a move, and the move has its own deadlines
        if time.monotonic() - self.batches.last_finished < IDLE_BEFORE_PROBE_S:
            return
        try:
            await asyncio.wait_for(self.batches.submit(self.probe), PROBE_TIMEOUT_S)
        except TimeoutError:
            raise ProgramError(
                f"a forward pass did not finish within {PROBE_TIMEOUT_S:.0f} s"
            ) from None

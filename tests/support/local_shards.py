"""Shards as threads of this process, connected by queues, for tests without processes.

connect(3) → [transport 0, transport 1, transport 2], one for each thread
LocalShardGroup(runs) → a ShardGroup over such transports
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import replace
from queue import SimpleQueue

from cluster.errors import TransportError
from cluster.runtime.shard import Run, ShardCounters, ShardLoop
from cluster.runtime.shard_group import ShardGroup
from cluster.runtime.topology import Topology
from cluster.runtime.transport import Frame

logger = logging.getLogger(__name__)

_JOIN_TIMEOUT_S = 2.0

_Pipes = dict[tuple[int, int], "SimpleQueue[Frame | None]"]


def connect(size: int) -> list[InProcessTransport]:
    """Return ``size`` transports, each connected to all others; list index is the rank."""
    pipes: _Pipes = {(a, b): SimpleQueue() for a in range(size) for b in range(size) if a != b}
    return [InProcessTransport(rank, size, pipes) for rank in range(size)]


class InProcessTransport:
    """See :class:`cluster.runtime.transport.Transport`."""

    def __init__(self, rank: int, size: int, pipes: _Pipes) -> None:
        self.rank = rank
        self.size = size
        self._pipes = pipes
        self._closed = False

    def send(self, to: int, frame: Frame) -> None:
        """See :class:`~cluster.runtime.transport.Transport`."""
        if self._closed:
            raise self._unavailable(to)
        # Copies, as between processes: receiver and sender may each write to their arrays.
        copies = tuple(array.copy() for array in frame.arrays)
        self._pipe(self.rank, to).put(replace(frame, arrays=copies))

    def receive(self, source: int) -> Frame:
        """See :class:`~cluster.runtime.transport.Transport`."""
        pipe = self._pipe(source, self.rank)
        frame = pipe.get()
        if frame is None:
            pipe.put(None)  # for the next call
            raise self._unavailable(source)
        return frame

    def close(self) -> None:
        """See :class:`~cluster.runtime.transport.Transport`."""
        self._closed = True
        for ends, pipe in self._pipes.items():
            if self.rank in ends:
                pipe.put(None)

    def _pipe(self, source: int, target: int) -> SimpleQueue[Frame | None]:
        if (source, target) not in self._pipes:
            raise ValueError(f"rank {self.rank} of {self.size}: no pipe from {source} to {target}")
        return self._pipes[source, target]

    def _unavailable(self, peer: int) -> TransportError:
        closed = "this transport" if self._closed else "its transport"
        return TransportError(
            f"rank {self.rank} of {self.size}: rank {peer} is unavailable: {closed} was closed"
        )


class LocalShardGroup(ShardGroup):
    """Group whose shards are threads of this process.

    ``runs[stage][tensor_rank]`` computes that shard; every stage has equally many tensor ranks.
    """

    def __init__(
        self, runs: Sequence[Sequence[Run]], max_inflight: int, timeout_s: float = 60.0
    ) -> None:
        tensor_ranks = {len(stage) for stage in runs}
        if len(tensor_ranks) != 1:
            raise ValueError(
                f"stages of {[len(stage) for stage in runs]} tensor ranks: expected one stage or "
                "more, with equal numbers of tensor ranks"
            )
        topology = Topology(len(runs), tensor_ranks.pop())
        replica, *ends = connect(topology.size)
        self._shards = [
            ShardLoop(runs[s][r], end, topology.source(s, r), topology.targets(s, r))
            for (s, r), end in zip(topology.shards, ends, strict=True)
        ]
        self._serving = [
            threading.Thread(target=_serve, args=(shard,), name=f"shard-{s}-{r}", daemon=True)
            for (s, r), shard in zip(topology.shards, self._shards, strict=True)
        ]
        for thread in self._serving:
            thread.start()
        super().__init__(replica, topology.stages, topology.tensor_ranks, max_inflight, timeout_s)

    def counters(self) -> list[ShardCounters]:
        """Return each shard's counters, in the order of transport ranks."""
        return [shard.counters() for shard in self._shards]

    def close(self, timeout_s: float | None = None) -> None:
        """See :class:`ShardGroup`. Waits for the shards, but not for one that hangs in a run."""
        super().close(timeout_s)
        for thread in self._serving:
            thread.join(_JOIN_TIMEOUT_S)


def _serve(shard: ShardLoop) -> None:
    try:
        shard.serve()
    except TransportError as error:
        logger.info("a shard ended: %s", error)
    except Exception:
        logger.exception("a shard's program failed")

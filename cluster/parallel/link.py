"""Time to send tensors from one shard to the next: a line through two measurements.

Both are of `benchmarks/parallelism/hop.py`, within one machine; a network has a line of its own.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Link:
    """A way between two shards: ``latency_ms`` for nothing, then so many bytes per ms."""

    latency_ms: float
    bytes_per_ms: float

    def ms(self, size_bytes: float) -> float:
        """Milliseconds for that many bytes, one way."""
        return self.latency_ms + size_bytes / self.bytes_per_ms


LOOPBACK = Link(latency_ms=0.35, bytes_per_ms=5e6)
"""Frames between two processes of one machine, large arrays through shared memory: AMD EPYC,
2 cores, 2026-11-23."""

SHARED_MEMORY = Link(latency_ms=0.02, bytes_per_ms=4e6)
"""An all-reduce between two ranks of one machine through shared memory, same machine and day."""

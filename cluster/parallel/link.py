"""Cost model of a transfer between shards: a line through two measurements.

Both are from `benchmarks/parallelism/hop.py`, within one machine. A network needs its own ones.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Link:
    """Link between two shards: ``latency_ms`` for an empty message, and its bandwidth."""

    latency_ms: float
    bytes_per_ms: float

    def ms(self, size_bytes: float) -> float:
        """Return the milliseconds of a transfer of ``size_bytes``, one way."""
        return self.latency_ms + size_bytes / self.bytes_per_ms


LOOPBACK = Link(latency_ms=0.35, bytes_per_ms=5e6)
"""Frames between two processes of one machine, large arrays in shared memory: AMD EPYC, 2 cores,
2026-11-23."""

SHARED_MEMORY = Link(latency_ms=0.02, bytes_per_ms=4e6)
"""An all-reduce between two ranks of one machine through shared memory, same machine and day."""

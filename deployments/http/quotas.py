"""The clients' token buckets, shared by all replicas of a node.

    take(client) → its file, locked → cluster.routing.quota → written back

A quota of one process each would let a client ask as many times as much as there are replicas.
"""

from __future__ import annotations

import fcntl
import os
import struct
import time
from pathlib import Path

from cluster.config.clients import Client
from cluster.routing.quota import Bucket, take

_BUCKET = struct.Struct("<dd")


class Quotas:
    """For one event loop."""

    def __init__(self, directory: Path) -> None:
        """``directory``: the same for all processes that share the quotas; it is made."""
        self._directory = directory
        self._files: dict[str, int] = {}

    def take(self, client: Client) -> float:
        """Count one request; 0, or the seconds after which the client may try again."""
        if client.requests_per_s is None:
            return 0.0
        file = self._file(client.name)
        fcntl.lockf(file, fcntl.LOCK_EX)
        try:
            held = os.pread(file, _BUCKET.size, 0)
            before = Bucket(*_BUCKET.unpack(held)) if len(held) == _BUCKET.size else None
            # CLOCK_MONOTONIC is the same for all processes of a node.
            taken = take(before, client.requests_per_s, client.at_once, time.monotonic())
            os.pwrite(file, _BUCKET.pack(taken.bucket.tokens, taken.bucket.at), 0)
        finally:
            fcntl.lockf(file, fcntl.LOCK_UN)
        return taken.wait_s

    def _file(self, name: str) -> int:
        if name not in self._files:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self._files[name] = os.open(self._directory / name, flags, 0o600)
        return self._files[name]

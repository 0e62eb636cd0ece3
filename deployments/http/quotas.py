"""Quotas of clients, shared by all replicas of a node without a lock.

    take(client) → this process's counter + 1 → sum over all processes ─┬ tokens → admitted
                                                  counter − 1 ← no token ┘ → seconds to wait

A file per quota is mapped into each replica's memory. A process writes only its own slot and reads
the others, so that a stopped process blocks no other. Two requests for the last token within the
same microseconds may both be refused, but never both admitted.
"""

from __future__ import annotations

import threading
import time
from hashlib import sha256
from pathlib import Path

import numpy as np

from cluster.config.clients import Client
from cluster.errors import ClusterError
from cluster.routing.quota import level, new_floor, wait_s
from cluster.runtime.process_slots import ProcessSlots, map_file

SLOTS = 1024
"""Processes of a node that can count at once."""

_SLOT = np.dtype([("consumed", "<i8"), ("floor", "<f8")])


class Quotas:
    """Counters of all clients, for one event loop."""

    def __init__(self, directory: Path) -> None:
        """``directory``: the same for all processes that share the quotas; it is created."""
        self._directory = directory
        self._slots: ProcessSlots | None = None
        self._slot = 0
        self._counters: dict[str, np.ndarray] = {}
        self._fence = threading.Lock()

    def take(self, client: Client) -> float:
        """Count one request; return 0, or the seconds after which the client may retry."""
        rate, burst = client.requests_per_s, client.at_once
        if rate is None:
            return 0.0
        counters = self._counters_of(client)
        now = time.monotonic()  # the same clock for all processes of a node
        consumed, floors = counters["consumed"], counters["floor"]
        floor = new_floor(float(floors.min()), int(consumed.sum()), rate, now)
        floors[self._slot] = floor
        consumed[self._slot] += 1
        with self._fence:
            pass  # memory barrier: this claim is visible before the other claims are read
        # Of two simultaneous claims, at least one is visible to the other process.
        tokens = level(floor, int(consumed.sum()), rate, burst, now) + 1
        delay_s = wait_s(tokens, rate)
        if delay_s > 0:
            consumed[self._slot] -= 1
        return delay_s

    def _counters_of(self, client: Client) -> np.ndarray:
        # A changed quota is another file: floors of different rates cannot be compared.
        text = f"{client.name} {client.requests_per_s} {client.at_once}"
        key = sha256(text.encode()).hexdigest()[:32]
        if key not in self._counters:
            if self._slots is None:
                self._claim_slot()
            memory = map_file(self._directory, key, SLOTS * _SLOT.itemsize)
            self._counters[key] = np.frombuffer(memory, _SLOT)
        return self._counters[key]

    def _claim_slot(self) -> None:
        slots = ProcessSlots(self._directory, "slots")
        slot = slots.claim(range(SLOTS))
        if slot is None:
            raise ClusterError(
                f"more than {SLOTS} processes of this node count requests; run fewer replicas per "
                "node"
            )
        self._slots, self._slot = slots, slot

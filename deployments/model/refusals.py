"""Exchange of refused requests between the nodes of a cluster, through its GCS.

this node's verdicts ─→ GCS: model, digest, time ─→ refused here, if younger than an hour

A thread does this every few seconds. While the GCS is unavailable, every node knows its own.
"""

from __future__ import annotations

import logging
import threading
import time

from cluster.runtime.fatal_requests import KEPT_S, FatalRequests
from deployments.ray.session import forget_name, share_name, shared_names

logger = logging.getLogger("ray.serve")

PERIOD_S = 5.0
"""Time in seconds between two exchanges."""


class Exchange:
    """Exchange of one replica, in a thread of its own. Close it with the replica."""

    def __init__(self, requests: FatalRequests, name: str) -> None:
        """``name``: the same for all replicas of a model."""
        self._requests = requests
        self._group = f"headrace-fatal:{name}"
        self._ended = threading.Event()
        threading.Thread(target=self._run, name="refusals", daemon=True).start()

    def close(self) -> None:
        """Let the thread end."""
        self._ended.set()

    def _run(self) -> None:
        while True:
            try:
                self.exchange(time.time())
            except Exception as error:  # noqa: BLE001 - Ray's errors of a lost GCS have no common base
                logger.debug("refused requests were not exchanged: %s", error)
            if self._ended.wait(PERIOD_S):
                return

    def exchange(self, now: float) -> None:
        """Share this node's verdicts, and take over others. ``now``: seconds since 1970."""
        known: dict[int, float] = {}
        for name in shared_names(self._group):
            digits, _, since = name.partition(" ")
            if now - float(since) < KEPT_S:
                known[int(digits, 16)] = float(since)
            else:
                forget_name(self._group, name)
        for digest in self._requests.judge() - known.keys():
            logger.error("request %016x ended a process of this node, and is refused", digest)
            share_name(self._group, f"{digest:016x} {now:.0f}")
            known[digest] = now
        self._requests.refused = frozenset(known)

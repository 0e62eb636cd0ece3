"""Heartbeats of a pipeline's shards.

counters() of every shard, each second → report
a call of serve() returns, the group fails, a heartbeat is missing → lost(reason), once
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.exceptions import RayError

from cluster.runtime.shard import ShardCounters
from deployments.shards.members import Member, ShardPosition, first_line
from deployments.shards.pipeline import Pipeline, end_reason

HEARTBEAT_S = 1.0
"""Interval between two heartbeats of a shard, in seconds; at most a quarter of the timeout."""

Report = Callable[[Sequence[ShardCounters]], None]


class Watch:
    """Thread that checks the heartbeats of a pipeline, until it is stopped or a shard is lost.

    ``report`` gets the counters of all shards, in the pipeline's order, every second. ``lost`` is
    called at most once, with the reason: a call of serve() has returned, the group has failed, or
    a shard has sent no heartbeat for ``timeout_s``.
    """

    def __init__(
        self, pipeline: Pipeline, timeout_s: float, report: Report, lost: Callable[[str], None]
    ) -> None:
        self._pipeline = pipeline
        self._timeout_s = timeout_s
        self._report, self._lost = report, lost
        self._stopped = threading.Event()
        threading.Thread(target=self._watch, name="shards", daemon=True).start()

    def stop(self) -> None:
        """Stop: report nothing from now on."""
        self._stopped.set()

    def _watch(self) -> None:
        members, serving = self._pipeline.members, self._pipeline.serving
        pending: dict[Any, Member] = {}
        checked = time.monotonic()
        heartbeats = {member.name: checked for member in members}
        last: dict[ShardPosition, ShardCounters] = {}
        next_call = 0.0
        timeout = self._timeout_s
        period = min(HEARTBEAT_S, timeout / 4)
        while not self._stopped.is_set():
            if time.monotonic() >= next_call:
                next_call = time.monotonic() + period
                waiting = {member.name for member in pending.values()}
                free = [member for member in members if member.name not in waiting]
                pending |= {member.actor.counters.remote(): member for member in free}
            soonest = min(next_call, min(heartbeats.values()) + timeout)
            refs = [*serving, *pending]
            ray.wait(refs, timeout=max(0.01, soonest - time.monotonic()))
            # All calls that are ready, before any heartbeat counts as missing.
            done, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
            now = time.monotonic()
            if now - checked > period + timeout / 2:
                # This process itself was stopped, and has yet to receive the heartbeats.
                heartbeats = dict.fromkeys(heartbeats, now)
            checked = now
            for ref in done:
                if ref in serving:
                    return self._notify(end_reason(serving[ref], ref))
                member = pending.pop(ref)
                try:
                    last[member.shard] = ray.get(ref)
                except RayError as error:
                    return self._notify(f"{member.name}: {first_line(error)}")
                heartbeats[member.name] = now
            for name, at in heartbeats.items():
                if now - at >= timeout:
                    return self._notify(f"{name} sent no heartbeat for {timeout:g} s")
            if self._pipeline.group.broken is not None:
                return self._notify(self._pipeline.group.broken)
            if done and len(last) == len(members) and not self._stopped.is_set():
                self._report([last[member.shard] for member in members])
        return None

    def _notify(self, reason: str) -> None:
        if not self._stopped.is_set():
            self._lost(reason)

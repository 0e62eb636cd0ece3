"""Whether the shards of a pipeline still serve, and give a sign of life."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.exceptions import RayError

from cluster.runtime.shard import ShardFigures
from deployments.shards.members import Member, Shard, first_line
from deployments.shards.pipeline import Pipeline, why

SIGN_OF_LIFE_S = 1.0
"""Seconds between two questions to every shard for its figures, or less, if it may be silent for
less than four times as long."""

Report = Callable[[Sequence[ShardFigures]], None]


class Watch:
    """Asks in a thread of its own until it is stopped, or has something to tell.

    ``report`` gets the figures of all shards, in the pipeline's order, every second. ``lost`` is
    called at most once, with the reason: a call to serve has returned, the group is broken, or a
    shard was silent for ``silent_s``.
    """

    def __init__(
        self, pipeline: Pipeline, silent_s: float, report: Report, lost: Callable[[str], None]
    ) -> None:
        self._pipeline = pipeline
        self._silent_s = silent_s
        self._report, self._lost = report, lost
        self._stopped = threading.Event()
        threading.Thread(target=self._watch, name="shards", daemon=True).start()

    def stop(self) -> None:
        """Tell nothing more; what ends from now on was meant to."""
        self._stopped.set()

    def _watch(self) -> None:
        members, serving = self._pipeline.members, self._pipeline.serving
        asked: dict[Any, Member] = {}
        looked = time.monotonic()
        heard = {member.name: looked for member in members}
        last: dict[Shard, ShardFigures] = {}
        next_question = 0.0
        silent = self._silent_s
        period = min(SIGN_OF_LIFE_S, silent / 4)
        while not self._stopped.is_set():
            if time.monotonic() >= next_question:
                next_question = time.monotonic() + period
                waiting = {member.name for member in asked.values()}
                free = [member for member in members if member.name not in waiting]
                asked |= {member.actor.figures.remote(): member for member in free}
            soonest = min(next_question, min(heard.values()) + silent)
            refs = [*serving, *asked]
            ray.wait(refs, timeout=max(0.01, soonest - time.monotonic()))
            # All that are ready, before anyone is called silent.
            done, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
            now = time.monotonic()
            if now - looked > period + silent / 2:
                # This process itself stood still, and has yet to hear what was said meanwhile.
                heard = dict.fromkeys(heard, now)
            looked = now
            for ref in done:
                if ref in serving:
                    return self._tell(why(serving[ref], ref))
                member = asked.pop(ref)
                try:
                    last[member.shard] = ray.get(ref)
                except RayError as error:
                    return self._tell(f"{member.name}: {first_line(error)}")
                heard[member.name] = now
            for name, at in heard.items():
                if now - at >= silent:
                    return self._tell(f"{name} gave no sign of life for {silent:g} s")
            if self._pipeline.group.broken is not None:
                return self._tell(self._pipeline.group.broken)
            if done and len(last) == len(members) and not self._stopped.is_set():
                self._report([last[member.shard] for member in members])
        return None

    def _tell(self, reason: str) -> None:
        if not self._stopped.is_set():
            self._lost(reason)

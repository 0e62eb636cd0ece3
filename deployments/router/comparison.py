"""Requests beside the one that is answered, for routes that compare two versions.

Comparisons run in :class:`Background`: bounded in number, and no client waits for them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

from cluster.config.routing import Target
from cluster.routing.branches import Ended
from cluster.runtime.priority_queue import Priority
from deployments.http.headers import PRIORITY
from deployments.router.call import Call, Reply, Report

COMPARISON_TIMEOUT_S = 30.0
"""How long the other version may take for a request that nobody waits for."""

WAITING = 64
"""Comparisons under way at once; requests beyond those are not compared."""


class Background:
    """Work beside the requests."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Callable[[], Coroutine[Any, Any, None]]) -> asyncio.Task[None] | None:
        """Begin ``work``, unless too much is waiting already: then None."""
        if len(self._tasks) >= WAITING:
            return None
        task = asyncio.ensure_future(work())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def aside(call: Call, target: Target) -> Call:
    """A request beside the one that is answered: its own time, behind all others, and no waiting
    for a replica."""
    timeout_s = min(COMPARISON_TIMEOUT_S, target.timeout_s or COMPARISON_TIMEOUT_S)
    return replace(
        call.impatient(),
        deadline=time.monotonic() + timeout_s,
        headers={**call.headers, PRIORITY: Priority.BATCH.value},
        apart=frozenset(),
        asked=None,
    )


def passed_on(
    target: Target, reply: Reply, taken_s: float, before: tuple[Report, ...] = ()
) -> Reply:
    report = Report(target.target, Ended.ANSWERED, taken_s * 1e3, None, reply.timing, reply.reports)
    return replace(reply, reports=(*before, report), timing={})

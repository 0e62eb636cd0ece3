"""Comparison requests of the routes that compare two versions of a model.

Comparisons run in :class:`Background`: bounded in number, and no client waits for them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

from cluster.config.routing import Target
from cluster.runtime.priority_queue import Priority
from deployments.http.headers import PRIORITY
from deployments.router.call import Call, Reply, Report

COMPARISON_TIMEOUT_S = 30.0
"""Timeout of a comparison request, in seconds."""

MAX_COMPARISONS = 64
"""Comparisons in flight at once; further requests are not compared."""


class Background:
    """Background tasks of a router, bounded in number."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Callable[[], Coroutine[Any, Any, None]]) -> asyncio.Task[None] | None:
        """Start ``work``; return None, and start nothing, at the limit of tasks."""
        if len(self._tasks) >= MAX_COMPARISONS:
            return None
        task = asyncio.ensure_future(work())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def comparison_call(call: Call, target: Target) -> Call:
    """Return the call of a comparison: own timeout, lowest priority, no waiting for a replica."""
    timeout_s = min(COMPARISON_TIMEOUT_S, target.timeout_s or COMPARISON_TIMEOUT_S)
    return replace(
        call.without_waiting(),
        deadline=time.monotonic() + timeout_s,
        headers={**call.headers, PRIORITY: Priority.BATCH.value},
        excluded=frozenset(),
        addresses=None,
    )


def with_report(
    target: Target, reply: Reply, latency_s: float, earlier: tuple[Report, ...] = ()
) -> Reply:
    """Return a target's reply as the route's, with the target's report after ``earlier``."""
    report = Report.of(target.target, reply, latency_s)
    return replace(reply, reports=(*earlier, report), timing={})

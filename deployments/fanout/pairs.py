"""Routes of two targets of which one answers: hedge, shadow, canary.

What runs beside a request, for comparison, runs in :class:`Background`: bounded, never waited for.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

from cluster.config.routing import Canary, Hedge, Shadow, Target
from cluster.routing.branches import Ended, HedgePolicy
from cluster.routing.canary import Judge, takes_part
from cluster.routing.contracts import Contract, Scores
from cluster.routing.hedge import HedgeBudget, Latencies
from cluster.routing.shadow import Agreement, Compared
from cluster.runtime.priority_queue import Priority
from deployments.fanout.branches import Ask, gather
from deployments.fanout.call import Call, Items, NoAnswerError, Node, Reply, Report
from deployments.fanout.scores import distribution
from deployments.inference import PRIORITY_HEADER

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


class HedgeNode:
    """A second replica, or target, for a request that takes long."""

    def __init__(
        self, route: Hedge, contract: Contract, first: Node, second: Node,
        hedged: Callable[[], None],
    ) -> None:  # fmt: skip
        """``hedged`` hears of every second request."""
        self.name = route.name
        self.contract = contract
        self._route = route
        self._first, self._second = first, second
        self._latencies = Latencies()
        self._budget = HedgeBudget(route.budget)
        self._hedged = hedged

    @property
    def there(self) -> bool:
        """Whether one of the two is."""
        return self._first.there or self._second.there

    async def answer(self, items: Items, call: Call) -> Reply:
        """See :meth:`deployments.fanout.call.Node.answer`."""
        self._budget.earn()
        # A second replica of the same model must be another one than was asked.
        at = call.asked if call.asked is not None else set()
        elsewhere = self._route.backup is None
        here = call if elsewhere else call.impatient()
        second = self._route.backup or self._route.target
        asks = [
            Ask(self._route.target.target, self._route.target.timeout_s,
                lambda call: self._first.answer(items, replace(call, asked=at))),
            Ask(f"{second.target}.hedge" if self._route.backup is None else second.target,
                second.timeout_s, lambda call: self._second.answer(
                    items, replace(call, apart=call.apart | at) if elsewhere else call)),
        ]  # fmt: skip
        spent = False

        def asked(index: int) -> None:
            nonlocal spent
            if index == 1:
                spent = True
                self._budget.spend()
                self._hedged()

        def policy() -> HedgePolicy:
            # What this request has spent is its own to the end.
            return HedgePolicy(self._after_s(), spent or self._budget.allows)

        gathered = await gather(policy, asks, here, asked)
        first = gathered.reports[0]
        if first.ended in (Ended.ANSWERED, Ended.CANCELLED):  # or it would have taken longer still
            self._latencies.add(first.ms / 1e3)
        reply = next(reply for reply in gathered.replies if reply is not None)
        return replace(reply, reports=gathered.reports, facts={**reply.facts, "hedged": spent})

    def _after_s(self) -> float:
        if self._route.after_ms == "p95":
            return self._latencies.percentile_s(0.95)
        return self._route.after_ms / 1e3


class ShadowNode:
    """One target answers; another gets a share of the requests as well."""

    def __init__(
        self, route: Shadow, contract: Contract, live: Node, shadow: Node, background: Background,
        compared: Callable[[Compared, float, float], None],
    ) -> None:  # fmt: skip
        """``compared`` hears of every comparison and both latencies in seconds."""
        self.name = route.name
        self.contract = contract
        self.agreement = Agreement()
        self._route = route
        self._live, self._shadow = live, shadow
        self._background = background
        self._compared = compared

    @property
    def there(self) -> bool:
        """Whether the target that answers is."""
        return self._live.there

    async def answer(self, items: Items, call: Call) -> Reply:
        """See :meth:`deployments.fanout.call.Node.answer`."""
        live: asyncio.Future[tuple[Reply, float]] = asyncio.get_running_loop().create_future()
        beside: asyncio.Task[None] | None = None
        if takes_part(call.request_id, self._route.share, f"shadow {self.name}"):
            beside = self._background.start(lambda: self._compare(items, call, live))
            self.agreement.skipped += beside is None
        begun = time.monotonic()
        try:
            reply = await self._live.answer(items, call.within(self._route.target.timeout_s))
        except BaseException:
            live.cancel()
            if beside is not None:
                beside.cancel()  # there is nothing to compare with
            raise
        taken_s = time.monotonic() - begun
        live.set_result((reply, taken_s))
        return _passed_on(self._route.target, reply, taken_s)

    async def _compare(
        self, items: Items, call: Call, live: asyncio.Future[tuple[Reply, float]]
    ) -> None:
        begun = time.monotonic()
        try:
            other = await self._shadow.answer(items, aside(call, self._route.shadow))
        except NoAnswerError as error:
            # What is wrong with the request itself is no failure of the other version.
            self.agreement.failures += error.http_status >= 500
            return
        shadow_s = time.monotonic() - begun
        reply, live_s = await live
        found = Compared.of(
            distribution(self._live.contract, reply.outputs),
            distribution(self._shadow.contract, other.outputs),
        )
        self.agreement.add(found, live_s, shadow_s)
        self._compared(found, live_s, shadow_s)


class CanaryNode:
    """The old version and the new one, each with its share of the requests."""

    def __init__(
        self, route: Canary, contract: Contract, old: Node, new: Node, background: Background,
        returned: Callable[[str], None],
    ) -> None:  # fmt: skip
        """``returned`` hears once why the new version is not asked any more."""
        self.name = route.name
        self.contract = contract
        self.judge = Judge(
            route.max_error_rate, route.max_disagreement, route.window, route.min_requests
        )
        self._route = route
        self._old, self._new = old, new
        self._background = background
        self._returned = returned
        self._compares = contract.scores is not Scores.NONE and route.max_disagreement is not None

    @property
    def there(self) -> bool:
        """Whether the old version is."""
        return self._old.there

    async def answer(self, items: Items, call: Call) -> Reply:
        """A request that the new version fails on is answered by the old one."""
        reports: tuple[Report, ...] = ()
        takes_part_here = takes_part(call.request_id, self._route.share, f"canary {self.name}")
        # One that is not there is on its way, or is being replaced: that is no error of its.
        if self.judge.verdict is None and self._new.there and takes_part_here:
            begun = time.monotonic()
            # The old version must have time left to answer.
            timeout_s = min(self._route.candidate.timeout_s or math.inf, call.left_s / 2)
            try:
                reply = await self._new.answer(items, call.impatient().within(timeout_s))
            except NoAnswerError as error:
                if error.http_status < 500:
                    raise
                # Nor is it to be at capacity, or late by a deadline that is the client's.
                own_time = timeout_s == self._route.candidate.timeout_s
                if error.http_status == 502 or (error.http_status == 504 and own_time):
                    self._judged(lambda: self.judge.answered(ok=False))
                ms = (time.monotonic() - begun) * 1e3
                name = self._route.candidate.target
                reports = (Report(name, error.ended, ms, str(error), {}, error.reports),)
            else:
                self._judged(lambda: self.judge.answered(ok=True))
                self._perhaps_compare(items, call, reply)
                return _passed_on(self._route.candidate, reply, time.monotonic() - begun)
        begun = time.monotonic()
        reply = await self._old.answer(items, call.within(self._route.target.timeout_s))
        return _passed_on(self._route.target, reply, time.monotonic() - begun, reports)

    def _perhaps_compare(self, items: Items, call: Call, reply: Reply) -> None:
        share = self._route.compared_share
        if self._compares and takes_part(call.request_id, share, f"compare {self.name}"):
            self._background.start(lambda: self._compare(items, call, reply))

    async def _compare(self, items: Items, call: Call, reply: Reply) -> None:
        try:
            old = await self._old.answer(items, aside(call, self._route.target))
        except NoAnswerError:
            return  # the old version is none of the judge's business
        found = Compared.of(
            distribution(self._old.contract, old.outputs),
            distribution(self._new.contract, reply.outputs),
        )
        self._judged(lambda: self.judge.compared(found.items, found.items - found.agreeing))

    def _judged(self, tell: Callable[[], None]) -> None:
        before = self.judge.verdict
        tell()
        if before is None and self.judge.verdict is not None:
            self._returned(self.judge.verdict)


def aside(call: Call, target: Target) -> Call:
    """A request beside the one that is answered: its own time, behind all others, and no waiting
    for a replica."""
    timeout_s = min(COMPARISON_TIMEOUT_S, target.timeout_s or COMPARISON_TIMEOUT_S)
    return replace(
        call.impatient(),
        deadline=time.monotonic() + timeout_s,
        headers={**call.headers, PRIORITY_HEADER: Priority.BATCH.value},
        apart=frozenset(),
        asked=None,
    )


def _passed_on(
    target: Target, reply: Reply, taken_s: float, before: tuple[Report, ...] = ()
) -> Reply:
    report = Report(target.target, Ended.ANSWERED, taken_s * 1e3, None, reply.timing, reply.reports)
    return replace(reply, reports=(*before, report), timing={})

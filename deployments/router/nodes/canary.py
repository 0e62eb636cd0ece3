"""Canary: the new version for a share of the requests, until its errors pass their limits."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from cluster.config.routing import Canary
from cluster.routing.canary import Judge, takes_part
from cluster.routing.contracts import Contract, Scores
from cluster.routing.shadow import Compared
from deployments.router.call import Call, Items, NoAnswerError, Node, Reply, Report
from deployments.router.comparison import Background, aside, passed_on
from deployments.router.scores import distribution


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
                return passed_on(self._route.candidate, reply, time.monotonic() - begun)
        begun = time.monotonic()
        reply = await self._old.answer(items, call.within(self._route.target.timeout_s))
        return passed_on(self._route.target, reply, time.monotonic() - begun, reports)

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

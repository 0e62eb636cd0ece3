"""Canary: the new version for a share of the requests, until its errors exceed their limits.

request → share of request ids ─┬ new version → its reply; judged, and sometimes compared
                                └ old version, also for requests that the new one fails
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from cluster.config.routing import Canary
from cluster.routing.canary import Judge
from cluster.routing.contracts import Contract, Scores
from cluster.routing.sampling import takes_part
from cluster.routing.shadow import Comparison
from deployments.router.call import Call, Items, NoAnswerError, Node, Reply, Report
from deployments.router.comparison import Background, comparison_call, with_report
from deployments.router.scores import distribution


class CanaryNode:
    """Node of a canary: the old and the new version, each with its share of the requests."""

    def __init__(
        self,
        route: Canary,
        contract: Contract,
        old: Node,
        new: Node,
        background: Background,
        on_rollback: Callable[[str], None],
    ) -> None:
        """``on_rollback`` is called once, with the reason to disable the new version."""
        self.name = route.name
        self.contract = contract
        self.judge = Judge(
            route.max_error_rate, route.max_disagreement, route.window, route.min_requests
        )
        self._route = route
        self._old, self._new = old, new
        self._background = background
        self._on_rollback = on_rollback
        self._compares = contract.scores is not Scores.NONE and route.max_disagreement is not None

    @property
    def available(self) -> bool:
        """Whether the old version is available: it can answer every request."""
        return self._old.available

    async def answer(self, items: Items, call: Call) -> Reply:
        """Return the new version's reply for its share, else the old version's.

        A request that the new version fails is answered by the old one.
        """
        reports: tuple[Report, ...] = ()
        in_share = takes_part(call.request_id, self._route.share, f"canary {self.name}")
        # A new version without replicas is starting or being replaced: that is not its error.
        if self.judge.verdict is None and self._new.available and in_share:
            started = time.monotonic()
            # Half of the time is reserved for the old version.
            timeout_s = min(self._route.candidate.timeout_s or math.inf, call.remaining_s / 2)
            try:
                reply = await self._new.answer(items, call.without_waiting().within(timeout_s))
            except NoAnswerError as error:
                if error.http_status < 500:
                    raise
                # Neither is a 503 (at capacity), nor a timeout set by the client's deadline.
                candidate_timeout = timeout_s == self._route.candidate.timeout_s
                if error.http_status == 502 or (error.http_status == 504 and candidate_timeout):
                    self._judge(lambda: self.judge.answered(ok=False))
                name = self._route.candidate.target
                reports = (Report.of(name, error, time.monotonic() - started),)
            else:
                self._judge(lambda: self.judge.answered(ok=True))
                self._start_comparison(items, call, reply)
                return with_report(self._route.candidate, reply, time.monotonic() - started)
        started = time.monotonic()
        reply = await self._old.answer(items, call.within(self._route.target.timeout_s))
        return with_report(self._route.target, reply, time.monotonic() - started, reports)

    def _start_comparison(self, items: Items, call: Call, reply: Reply) -> None:
        share = self._route.compared_share
        if self._compares and takes_part(call.request_id, share, f"compare {self.name}"):
            self._background.start(lambda: self._compare(items, call, reply))

    async def _compare(self, items: Items, call: Call, reply: Reply) -> None:
        try:
            old = await self._old.answer(items, comparison_call(call, self._route.target))
        except NoAnswerError:
            return  # the judge counts no errors of the old version
        comparison = Comparison.of(
            distribution(self._old.contract, old.outputs),
            distribution(self._new.contract, reply.outputs),
            self._old.contract.activation,
        )
        differing = comparison.items - comparison.agreeing
        self._judge(lambda: self.judge.compared(comparison.items, differing))

    def _judge(self, record: Callable[[], None]) -> None:
        before = self.judge.verdict
        record()
        if before is None and self.judge.verdict is not None:
            self._on_rollback(self.judge.verdict)

"""Shadow: one target answers; a share of the requests also goes to another, for comparison.

request → live target → reply
        └ share of request ids → shadow target, in the background → ShadowTotals
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from cluster.config.routing import Shadow
from cluster.routing.contracts import Contract
from cluster.routing.sampling import takes_part
from cluster.routing.shadow import Comparison, ShadowTotals
from deployments.router.call import Call, Items, NoAnswerError, Node, Reply
from deployments.router.comparison import Background, comparison_call, with_report
from deployments.router.scores import distribution


class ShadowNode:
    """Node of a shadow: the live target, and the shadow that gets a share of its requests."""

    def __init__(
        self,
        route: Shadow,
        contract: Contract,
        live: Node,
        shadow: Node,
        background: Background,
        on_comparison: Callable[[Comparison, float, float], None],
    ) -> None:
        """``on_comparison`` gets every comparison and both latencies in seconds."""
        self.name = route.name
        self.contract = contract
        self.totals = ShadowTotals()
        self._route = route
        self._live, self._shadow = live, shadow
        self._background = background
        self._on_comparison = on_comparison

    @property
    def available(self) -> bool:
        """Whether the live target is available."""
        return self._live.available

    async def answer(self, items: Items, call: Call) -> Reply:
        """See :meth:`deployments.router.call.Node.answer`."""
        live: asyncio.Future[tuple[Reply, float]] = asyncio.get_running_loop().create_future()
        comparison: asyncio.Task[None] | None = None
        if takes_part(call.request_id, self._route.share, f"shadow {self.name}"):
            comparison = self._background.start(lambda: self._compare(items, call, live))
            self.totals.skipped += comparison is None
        started = time.monotonic()
        try:
            reply = await self._live.answer(items, call.within(self._route.target.timeout_s))
        except BaseException:
            live.cancel()
            if comparison is not None:
                comparison.cancel()  # there is no reply to compare with
            raise
        latency_s = time.monotonic() - started
        live.set_result((reply, latency_s))
        return with_report(self._route.target, reply, latency_s)

    async def _compare(
        self, items: Items, call: Call, live: asyncio.Future[tuple[Reply, float]]
    ) -> None:
        started = time.monotonic()
        try:
            other = await self._shadow.answer(items, comparison_call(call, self._route.shadow))
        except NoAnswerError as error:
            # An invalid request (4xx) is no failure of the shadow.
            self.totals.failures += error.http_status >= 500
            return
        shadow_s = time.monotonic() - started
        reply, live_s = await live
        comparison = Comparison.of(
            distribution(self._live.contract, reply.outputs),
            distribution(self._shadow.contract, other.outputs),
            self._live.contract.activation,
        )
        self.totals.add(comparison, live_s, shadow_s)
        self._on_comparison(comparison, live_s, shadow_s)

"""Shadow: one target answers; another gets a share of the requests, to be compared."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from cluster.config.routing import Shadow
from cluster.routing.canary import takes_part
from cluster.routing.contracts import Contract
from cluster.routing.shadow import Agreement, Compared
from deployments.router.call import Call, Items, NoAnswerError, Node, Reply
from deployments.router.comparison import Background, aside, passed_on
from deployments.router.scores import distribution


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
        """See :meth:`deployments.router.call.Node.answer`."""
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
        return passed_on(self._route.target, reply, taken_s)

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

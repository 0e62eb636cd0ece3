"""Hedge: a second request, to another replica or target, when the first takes long."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from cluster.config.routing import Hedge
from cluster.routing.branches import Ended, HedgePolicy
from cluster.routing.contracts import Contract
from cluster.routing.hedge import HedgeBudget, Latencies
from deployments.router.call import Call, Items, Node, Reply
from deployments.router.gather import Ask, gather


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
        """See :meth:`deployments.router.call.Node.answer`."""
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

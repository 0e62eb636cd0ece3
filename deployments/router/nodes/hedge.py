"""Hedge: a second request, to another replica or target, when the first takes long.

request → first target ─┬ answer before the delay → reply
                        └ delay over, or failure → second target → the first answer of the two
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from cluster.config.routing import Hedge
from cluster.routing.branches import BranchOutcome, HedgePolicy
from cluster.routing.contracts import Contract
from cluster.routing.hedge import HedgeBudget, Latencies
from deployments.router.call import Call, Items, Node, Reply
from deployments.router.gather import BranchRequest, gather


class HedgeNode:
    """Node of a hedge: a first target and the second one for slow requests."""

    def __init__(
        self,
        route: Hedge,
        contract: Contract,
        first: Node,
        second: Node,
        on_hedge: Callable[[], None],
    ) -> None:
        """``on_hedge`` is called at every second request."""
        self.name = route.name
        self.contract = contract
        self._route = route
        self._first, self._second = first, second
        self._latencies = Latencies()
        self._budget = HedgeBudget(route.budget)
        self._on_hedge = on_hedge

    @property
    def available(self) -> bool:
        """Whether one of the two targets is available."""
        return self._first.available or self._second.available

    async def answer(self, items: Items, call: Call) -> Reply:
        """See :meth:`deployments.router.call.Node.answer`."""
        self._budget.earn()
        # Without a backup, the second request needs another replica of the same model.
        addresses = call.addresses if call.addresses is not None else set()
        same_target = self._route.backup is None
        backup = self._route.backup or self._route.target

        async def send_second(call: Call) -> Reply:
            if same_target:
                call = replace(call, excluded=call.excluded | addresses)
            return await self._second.answer(items, call)

        requests = [
            BranchRequest(
                self._route.target.target,
                self._route.target.timeout_s,
                lambda call: self._first.answer(items, replace(call, addresses=addresses)),
            ),
            BranchRequest(
                f"{backup.target}.hedge" if same_target else backup.target,
                backup.timeout_s,
                send_second,
            ),
        ]
        hedged = False

        def on_request(index: int) -> None:
            nonlocal hedged
            if index == 1:
                hedged = True
                self._budget.spend()
                self._on_hedge()

        def policy() -> HedgePolicy:
            # A request that has spent from the budget keeps its permission to the end.
            return HedgePolicy(self._after_s(), hedged or self._budget.allows)

        gathered = await gather(
            policy, requests, call if same_target else call.without_waiting(), on_request
        )
        first = gathered.reports[0]
        # The latency of a cancelled request is a lower bound.
        if first.outcome in (BranchOutcome.ANSWERED, BranchOutcome.CANCELLED):
            self._latencies.add(first.ms / 1e3)
        reply = next(reply for reply in gathered.replies if reply is not None)
        return replace(reply, reports=gathered.reports, facts={**reply.facts, "hedged": hedged})

    def _after_s(self) -> float:
        if self._route.after_ms == "p95":
            return self._latencies.percentile_s(0.95)
        return self._route.after_ms / 1e3

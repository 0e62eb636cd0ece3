"""Scatter: one large batch in parts, over the replicas of a target.

items → parts → the target's replicas, several at a time → outputs in the order of the items
"""

from __future__ import annotations

import asyncio
import time
from functools import partial

import numpy as np

from cluster.config.routing import Scatter
from cluster.routing.branches import GatherPolicy
from cluster.routing.contracts import Contract
from cluster.routing.scatter import parts
from deployments.router.call import Call, Items, Node, Reply
from deployments.router.gather import BranchRequest, combine_timing, gather, ignore, is_partial

MAX_PARTS_IN_FLIGHT = 32
"""Parts of one batch in flight at once, at most."""


class ScatterNode:
    """Node of a scatter: one batch in parts, over the replicas of a target."""

    def __init__(self, route: Scatter, contract: Contract, target: Node, part_items: int) -> None:
        self.name = route.name
        self.contract = contract
        self._route = route
        self._target = target
        self._part_items = part_items

    @property
    def available(self) -> bool:
        """Whether its target is available."""
        return self._target.available

    async def answer(self, items: Items, call: Call) -> Reply:
        """See :meth:`deployments.router.call.Node.answer`."""
        cuts = parts(items.count, self._part_items)
        in_flight = asyncio.Semaphore(MAX_PARTS_IN_FLIGHT)

        async def send(cut: slice, call: Call) -> Reply:
            async with in_flight:
                return await self._target.answer(items.rows(cut), call)

        target = self._route.target
        requests = [
            BranchRequest(target.target, target.timeout_s, partial(send, cut)) for cut in cuts
        ]
        policy = GatherPolicy(len(cuts), len(cuts))
        gathered = await gather(lambda: policy, requests, call, ignore)
        started = time.perf_counter()
        replies = [reply.outputs for reply in gathered.replies if reply is not None]
        outputs = tuple(np.concatenate(column) for column in zip(*replies, strict=True))
        return Reply(
            outputs,
            # One report for all parts: there may be thousands, and the slowest sets the latency.
            (max(gathered.reports, key=lambda report: report.ms),),
            timing=combine_timing(started),
            partial=is_partial(gathered, len(cuts)),
            missing=frozenset().union(*(r.missing for r in gathered.replies if r is not None)),
            facts={"parts": len(cuts)},
        )

"""Scatter: the parts of one large batch, over the replicas of a target."""

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
from deployments.router.gather import Ask, combine_timing, gather, ignore, is_partial

PARTS_UNDER_WAY = 32
"""Parts of one batch that are asked for at once."""


class ScatterNode:
    """One batch in parts, over the replicas of a target."""

    def __init__(self, route: Scatter, contract: Contract, target: Node, part_items: int) -> None:
        self.name = route.name
        self.contract = contract
        self._route = route
        self._target = target
        self._part_items = part_items

    @property
    def there(self) -> bool:
        """Whether its target is."""
        return self._target.there

    async def answer(self, items: Items, call: Call) -> Reply:
        """See :meth:`deployments.router.call.Node.answer`."""
        cuts = parts(items.count, self._part_items)
        places = asyncio.Semaphore(PARTS_UNDER_WAY)

        async def part(cut: slice, call: Call) -> Reply:
            async with places:
                return await self._target.answer(items.rows(cut), call)

        target = self._route.target
        asks = [Ask(target.target, target.timeout_s, partial(part, cut)) for cut in cuts]
        policy = GatherPolicy(len(cuts), len(cuts))
        gathered = await gather(lambda: policy, asks, call, ignore)
        started = time.perf_counter()
        replies = [reply.outputs for reply in gathered.replies if reply is not None]
        outputs = tuple(np.concatenate(column) for column in zip(*replies, strict=True))
        return Reply(
            outputs,
            # One for all: there may be thousands, and the slowest is what was waited for.
            (max(gathered.reports, key=lambda report: report.ms),),
            timing=combine_timing(started),
            partial=is_partial(gathered, len(cuts)),
            missing=frozenset().union(*(r.missing for r in gathered.replies if r is not None)),
            facts={"parts": len(cuts)},
        )

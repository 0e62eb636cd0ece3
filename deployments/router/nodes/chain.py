"""Chain: the outputs of one target are the inputs of the next.

items → target → outputs → positions of the next target's inputs → target → ... → reply
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from cluster.config.routing import Chain
from cluster.routing.contracts import Contract, links
from deployments.router.call import Call, Items, NoAnswerError, Node, Reply, Report


class ChainNode:
    """Node of a chain."""

    def __init__(self, route: Chain, contract: Contract, targets: Sequence[Node]) -> None:
        self.name = route.name
        self.contract = contract
        names = [target.target for target in route.targets]
        positions = [
            links(route.name, names[index : index + 2], before.contract, after.contract)
            for index, (before, after) in enumerate(pairwise(targets))
        ]
        self._links = [*zip(route.targets, targets, (None, *positions), strict=True)]

    @property
    def available(self) -> bool:
        """Whether all targets are available."""
        return all(node.available for _, node, _ in self._links)

    async def answer(self, items: Items, call: Call) -> Reply:
        """See :meth:`deployments.router.call.Node.answer`."""
        reports: list[Report] = []
        reply = Reply(items.arrays)
        partial = False
        for target, node, positions in self._links:
            if positions is not None:
                if reply.missing:
                    missing = ", ".join(sorted(reply.missing))
                    raise NoAnswerError(502, f"no input for {node.name}: no {missing}", reports)
                items = Items([reply.outputs[position] for position in positions])
            started = time.monotonic()
            try:
                reply = await node.answer(items, call.within(target.timeout_s))
            except NoAnswerError as error:
                report = Report.of(target.target, error, time.monotonic() - started)
                raise NoAnswerError(error.http_status, str(error), (*reports, report)) from None
            reports.append(Report.of(target.target, reply, time.monotonic() - started))
            partial = partial or reply.partial
        return replace(reply, reports=tuple(reports), timing={}, partial=partial)

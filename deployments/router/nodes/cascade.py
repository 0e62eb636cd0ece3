"""Cascade: the small model answers the items that it is sure of, the next model the rest.

    items → student → probabilities ─┬ sure   → the answer
                                     └ unsure → teacher → the answer

The decision is per item: only the unsure items of a batch go to the next model.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from cluster.config.routing import Cascade
from cluster.routing.branches import BranchOutcome
from cluster.routing.cascade import going_on
from cluster.routing.contracts import Contract
from deployments.router.call import Call, Items, NoAnswerError, Node, Reply, Report
from deployments.router.scores import distribution

CountItems = Callable[[str, int], None]
"""Counts the items whose answer is a target's: its name, the number of items."""


class CascadeNode:
    """Node of a cascade: targets from the smallest to the largest."""

    def __init__(
        self,
        route: Cascade,
        contract: Contract,
        targets: Sequence[Node],
        thresholds: Callable[[], Sequence[float]],
        answered_by: CountItems,
    ) -> None:
        """``thresholds`` returns those of one request: one for each target but the last."""
        self.name = route.name
        self.contract = contract
        self._targets = list(zip(route.targets, targets, strict=True))
        self._thresholds = thresholds
        self._least = route.min_answers
        self._answered_by = answered_by

    @property
    def available(self) -> bool:
        """Whether the last target is available: it can answer every item."""
        return self._targets[-1][1].available

    async def answer(self, items: Items, call: Call) -> Reply:
        """Return the probabilities of all items.

        A target that fails is skipped: its items go to the next. Only the last target may wait
        for a replica.
        """
        labels = self.contract.outputs[0].item_shape
        output = np.zeros((items.count, *labels), np.float32)
        unsure = np.arange(items.count)
        answered = np.zeros(items.count, bool)
        counts = {target.target: 0 for target, _ in self._targets}
        reports: list[Report] = []
        error: NoAnswerError | None = None
        partial = False
        thresholds = (*self._thresholds(), 0.0)
        for index, (target, node) in enumerate(self._targets):
            last = index + 1 == len(self._targets)
            part = items if len(unsure) == items.count else items.rows(unsure)
            started = time.monotonic()
            try:
                may_wait = last and self._least is None
                target_call = call if may_wait else call.without_waiting()
                reply = await node.answer(part, target_call.within(target.timeout_s))
            except NoAnswerError as failure:
                error = failure
                reports.append(Report.of(target.target, failure, time.monotonic() - started))
                if failure.http_status < 500:
                    raise NoAnswerError(failure.http_status, str(failure), reports) from None
                continue
            reports.append(Report.of(target.target, reply, time.monotonic() - started))
            partial = partial or reply.partial
            error = None
            scores = distribution(node.contract, reply.outputs)
            output[unsure] = scores
            answered[unsure] = True
            escalated = np.empty(0, np.int64) if last else going_on(scores, thresholds[index])
            counts[target.target] += len(unsure) - len(escalated)
            unsure = unsure[escalated]
            if len(unsure) == 0:
                break
        # The items left over have an unsure answer, or none.
        if len(unsure) and not self._unsure_suffices(reports, answered):
            status = error.http_status if error is not None else 502
            reasons = "; ".join(f"{r.name}: {r.reason}" for r in reports if r.reason is not None)
            raise NoAnswerError(
                status,
                f"no confident answer for {len(unsure)} of {items.count} items: {reasons}",
                reports,
            )
        for name, count in counts.items():
            self._answered_by(name, count)
        facts = {f"answered_by.{name}": count for name, count in counts.items()}
        return Reply((output,), tuple(reports), partial=partial or bool(len(unsure)), facts=facts)

    def _unsure_suffices(self, reports: Sequence[Report], answered: np.ndarray) -> bool:
        """Whether unsure answers are enough for a partial reply."""
        count = sum(report.outcome is BranchOutcome.ANSWERED for report in reports)
        return self._least is not None and count >= self._least and bool(answered.all())

"""A cascade: the small model answers what it is sure of, the next one the rest.

    items → student → probabilities ─┬ sure   → the answer
                                     └ unsure → teacher → the answer

Item by item: of a batch only the unsure items go on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from cluster.config.routing import Cascade, Target
from cluster.routing.branches import Ended
from cluster.routing.cascade import going_on
from cluster.routing.contracts import Contract
from deployments.router.call import Call, Items, NoAnswerError, Node, Reply, Report
from deployments.router.scores import distribution

Escalated = Callable[[str, int], None]
"""Hears of a target and how many items it has answered for good."""


class CascadeNode:
    """See :class:`deployments.router.call.Node`."""

    def __init__(
        self,
        route: Cascade,
        contract: Contract,
        targets: Sequence[Node],
        thresholds: Callable[[], Sequence[float]],
        answered_by: Escalated,
    ) -> None:
        """``thresholds``: for a request, one for each target but the last."""
        self.name = route.name
        self.contract = contract
        self._targets = list(zip(route.targets, targets, strict=True))
        self._thresholds = thresholds
        self._least = route.min_answers
        self._answered_by = answered_by

    @property
    def there(self) -> bool:
        """Whether the last target is: it can answer everything."""
        return self._targets[-1][1].there

    async def answer(self, items: Items, call: Call) -> Reply:
        """A target that fails is skipped, its items go on; the last one is waited for."""
        labels = self.contract.outputs[0].item_shape
        output = np.zeros((items.count, *labels), np.float32)
        todo = np.arange(items.count)
        answered = np.zeros(items.count, bool)
        by = {target.target: 0 for target, _ in self._targets}
        reports: list[Report] = []
        error: NoAnswerError | None = None
        partial = False
        thresholds = (*self._thresholds(), 0.0)
        for index, (target, node) in enumerate(self._targets):
            last = index + 1 == len(self._targets)
            part = items if len(todo) == items.count else items.rows(todo)
            started = time.monotonic()
            try:
                patient = call if last and self._least is None else call.impatient()
                reply = await node.answer(part, patient.within(target.timeout_s))
            except NoAnswerError as failure:
                error = failure
                reports.append(_report(target, started, failure))
                if failure.http_status < 500:
                    raise NoAnswerError(failure.http_status, str(failure), reports) from None
                continue
            reports.append(_report(target, started, reply))
            partial = partial or reply.partial
            error = None
            scores = distribution(node.contract, reply.outputs)
            output[todo] = scores
            answered[todo] = True
            unsure = np.empty(0, np.int64) if last else going_on(scores, thresholds[index])
            by[target.target] += len(todo) - len(unsure)
            todo = todo[unsure]
            if len(todo) == 0:
                break
        # What is still to do was answered by one that was not sure, or by nobody.
        if len(todo) and not self._stands(reports, answered):
            status = error.http_status if error is not None else 502
            said = "; ".join(f"{r.name}: {r.reason}" for r in reports if r.reason is not None)
            raise NoAnswerError(
                status, f"{len(todo)} of {items.count} items unsure; {said}", reports
            )
        for name, count in by.items():
            self._answered_by(name, count)
        facts = {f"answered_by.{name}": count for name, count in by.items()}
        return Reply((output,), tuple(reports), partial=partial or bool(len(todo)), facts=facts)

    def _stands(self, reports: Sequence[Report], answered: np.ndarray) -> bool:
        """Whether unsure answers are enough."""
        count = sum(report.ended is Ended.ANSWERED for report in reports)
        return self._least is not None and count >= self._least and bool(answered.all())


def _report(target: Target, started: float, came: Reply | NoAnswerError) -> Report:
    ms = (time.monotonic() - started) * 1e3
    if isinstance(came, Reply):
        return Report(target.target, Ended.ANSWERED, ms, None, came.timing, came.reports)
    return Report(target.target, came.ended, ms, str(came), {}, came.reports)

"""Multi-task: a model for each task, all on one input, outputs under the names of the tasks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cluster.config.routing import MultiTask
from cluster.routing.branches import GatherPolicy
from cluster.routing.contracts import Contract
from deployments.router.call import Call, Items, Node, Reply
from deployments.router.gather import Ask, gather, ignore, is_partial, sender


class MultiTaskNode:
    """Different models on one input."""

    def __init__(self, route: MultiTask, contract: Contract, targets: Sequence[Node]) -> None:
        self.name = route.name
        self.contract = contract
        self._route = route
        self._targets = tuple(targets)
        names = [spec.name for spec in contract.inputs]
        self._inputs = [[names.index(s.name) for s in t.contract.inputs] for t in targets]
        self._policy = GatherPolicy(len(targets), route.min_answers or len(targets))

    @property
    def there(self) -> bool:
        """Whether as many targets as it needs are."""
        return sum(target.there for target in self._targets) >= self._policy.least

    async def answer(self, items: Items, call: Call) -> Reply:
        """Outputs of a task that has no answer are filled with zeros and named in the facts."""
        asks = [
            Ask(task, target.timeout_s, sender(node, items.inputs(inputs)))
            for (task, target), node, inputs in zip(
                self._route.tasks.items(), self._targets, self._inputs, strict=True
            )
        ]
        all_needed = self._policy.least == len(self._targets)
        gathered = await gather(
            lambda: self._policy, asks, call if all_needed else call.impatient(), ignore
        )
        outputs: list[np.ndarray] = []
        missing = []
        for task, node, reply in zip(
            self._route.tasks, self._targets, gathered.replies, strict=True
        ):
            if reply is None or reply.missing:
                missing += [f"{task}.{spec.name}" for spec in node.contract.outputs]
                outputs += [spec.zeros(items.count) for spec in node.contract.outputs]
            else:
                outputs += reply.outputs
        return Reply(
            tuple(outputs),
            gathered.reports,
            partial=is_partial(gathered, len(asks)),
            missing=frozenset(missing),
        )

"""Multi-task: a model for each task, all on one input, outputs under the names of the tasks.

items → the inputs of every task's target → TASK.OUTPUT for each of its outputs
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cluster.config.routing import MultiTask
from cluster.routing.branches import GatherPolicy
from cluster.routing.contracts import Contract
from deployments.router.call import Call, Items, Node, Reply
from deployments.router.gather import BranchRequest, gather, ignore, is_partial, sender


class MultiTaskNode:
    """Node of a multi-task route: different models on one input."""

    def __init__(self, route: MultiTask, contract: Contract, targets: Sequence[Node]) -> None:
        self.name = route.name
        self.contract = contract
        self._route = route
        self._targets = tuple(targets)
        names = [spec.name for spec in contract.inputs]
        self._inputs = [[names.index(s.name) for s in t.contract.inputs] for t in targets]
        self._policy = GatherPolicy(len(targets), route.min_answers or len(targets))

    @property
    def available(self) -> bool:
        """Whether enough targets are available."""
        return sum(target.available for target in self._targets) >= self._policy.least

    async def answer(self, items: Items, call: Call) -> Reply:
        """Return the outputs of all tasks; those without an answer are zeros, and ``missing``."""
        requests = [
            BranchRequest(task, target.timeout_s, sender(node, items.inputs(inputs)))
            for (task, target), node, inputs in zip(
                self._route.tasks.items(), self._targets, self._inputs, strict=True
            )
        ]
        all_needed = self._policy.least == len(self._targets)
        gathered = await gather(
            lambda: self._policy, requests, call if all_needed else call.without_waiting(), ignore
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
            partial=is_partial(gathered, len(requests)),
            missing=frozenset(missing),
        )

"""Routes that ask several targets at once: ensemble, quorum, multi_task, and scatter's parts."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import numpy as np

from cluster.config.routing import Ensemble, MultiTask, Quorum, Scatter
from cluster.errors import ProgramError
from cluster.routing.branches import GatherPolicy
from cluster.routing.contracts import Contract
from cluster.routing.ensemble import mean, vote
from cluster.routing.scatter import parts
from cluster.tensors import TensorSpec
from deployments import tracing
from deployments.fanout.branches import Ask, Gathered, gather
from deployments.fanout.call import Call, Items, NoAnswerError, Node, Reply
from deployments.fanout.scores import distribution

PARTS_UNDER_WAY = 32
"""Parts of one batch that are asked for at once."""

logger = logging.getLogger("ray.serve")

Combine = Callable[[Sequence[Sequence[np.ndarray]], Sequence[float]], Sequence[np.ndarray]]
"""The outputs of each target that answered, and their weights → the route's outputs."""


class CombinedNode:
    """An ensemble, or a quorum of the first ``k``."""

    def __init__(
        self,
        route: Ensemble | Quorum,
        contract: Contract,
        targets: Sequence[Node],
        combine: Combine | None,
    ) -> None:
        """``combine``: the user's function; None where the route names one of ours."""
        self.name = route.name
        self.contract = contract
        self._route = route
        self._targets = tuple(targets)
        self._weights = [target.weight for target in route.targets]
        self._combine = combine
        enough = route.k if isinstance(route, Quorum) else len(targets)
        self._policy = GatherPolicy(enough, route.min_answers or enough)

    @property
    def there(self) -> bool:
        """Whether as many targets as it needs are."""
        return sum(target.there for target in self._targets) >= self._policy.least

    async def answer(self, items: Items, call: Call) -> Reply:
        """See :meth:`deployments.fanout.call.Node.answer`."""
        all_needed = self._policy.least == len(self._targets)
        asks = [
            Ask(target.target, target.timeout_s, _sender(node, items))
            for target, node in zip(self._route.targets, self._targets, strict=True)
        ]
        gathered = await gather(
            lambda: self._policy, asks, call if all_needed else call.impatient(), _nothing
        )
        started = time.perf_counter()
        answered = [
            (node, reply, weight)
            for node, reply, weight in zip(
                self._targets, gathered.replies, self._weights, strict=True
            )
            if reply is not None
        ]
        try:
            outputs = self._combined(answered, items.count)
        except Exception:
            logger.exception("route %s: %s failed", self.name, self._route.combine)
            raise NoAnswerError(
                502,
                f"route {self.name}: what combines the answers failed; the server's log has why",
                gathered.reports,
            ) from None
        return Reply(
            outputs,
            gathered.reports,
            timing=_combining(started),
            partial=_partial(gathered, self._policy.enough),
        )

    def _combined(
        self, answered: Sequence[tuple[Node, Reply, float]], count: int
    ) -> tuple[np.ndarray, ...]:
        weights = [weight for _, _, weight in answered]
        if self._combine is None:
            shares = [distribution(node.contract, reply.outputs) for node, reply, _ in answered]
            return ((mean if self._route.combine == "mean" else vote)(shares, weights),)
        given = tuple(self._combine([reply.outputs for _, reply, _ in answered], weights))
        if len(given) != len(self.contract.outputs):
            raise ProgramError(
                f"route {self.name}: {self._route.combine} returned {len(given)} outputs, expected "
                f"{len(self.contract.outputs)}"
            )
        for spec, output in zip(self.contract.outputs, given, strict=True):
            self._check(output, spec, count)
        return given

    def _check(self, output: object, spec: TensorSpec, count: int) -> None:
        wanted = f"{spec.dtype}{[count, *spec.item_shape]}"
        given = type(output).__name__
        if isinstance(output, np.ndarray):
            given = f"{output.dtype}{list(output.shape)}"
        if given != wanted:
            raise ProgramError(
                f"route {self.name}: {self._route.combine} returned {given} as {spec.name}, "
                f"expected {wanted}"
            )


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
            Ask(task, target.timeout_s, _sender(node, items.inputs(inputs)))
            for (task, target), node, inputs in zip(
                self._route.tasks.items(), self._targets, self._inputs, strict=True
            )
        ]
        all_needed = self._policy.least == len(self._targets)
        gathered = await gather(
            lambda: self._policy, asks, call if all_needed else call.impatient(), _nothing
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
            partial=_partial(gathered, len(asks)),
            missing=frozenset(missing),
        )


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
        """See :meth:`deployments.fanout.call.Node.answer`."""
        cuts = parts(items.count, self._part_items)
        places = asyncio.Semaphore(PARTS_UNDER_WAY)

        async def part(cut: slice, call: Call) -> Reply:
            async with places:
                return await self._target.answer(items.rows(cut), call)

        target = self._route.target
        asks = [Ask(target.target, target.timeout_s, partial(part, cut)) for cut in cuts]
        policy = GatherPolicy(len(cuts), len(cuts))
        gathered = await gather(lambda: policy, asks, call, _nothing)
        started = time.perf_counter()
        replies = [reply.outputs for reply in gathered.replies if reply is not None]
        outputs = tuple(np.concatenate(column) for column in zip(*replies, strict=True))
        return Reply(
            outputs,
            # One for all: there may be thousands, and the slowest is what was waited for.
            (max(gathered.reports, key=lambda report: report.ms),),
            timing=_combining(started),
            partial=_partial(gathered, len(cuts)),
            missing=frozenset().union(*(r.missing for r in gathered.replies if r is not None)),
            facts={"parts": len(cuts)},
        )


def _combining(started: float) -> dict[str, float]:
    """The phase that has begun at that time of the performance counter, and ends now."""
    timing = {"combine": (time.perf_counter() - started) * 1e3}
    tracing.phases(timing)
    return timing


def _sender(node: Node, items: Items) -> Callable[[Call], Awaitable[Reply]]:
    return lambda call: node.answer(items, call)


def _partial(gathered: Gathered, enough: int) -> bool:
    answered = [reply for reply in gathered.replies if reply is not None]
    return len(answered) < enough or any(reply.partial for reply in answered)


def _nothing(index: int) -> None:
    """No one needs to hear that a branch was asked."""

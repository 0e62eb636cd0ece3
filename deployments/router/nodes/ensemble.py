"""Ensemble and quorum: several models on one input, their answers combined into one.

items → every target → mean, vote or the user's function over the replies → one reply
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

import numpy as np

from cluster.config.routing import Ensemble, Quorum
from cluster.errors import ProgramError
from cluster.routing.branches import GatherPolicy
from cluster.routing.contracts import Contract
from cluster.routing.ensemble import mean, vote
from cluster.tensors import TensorSpec
from deployments.router.call import Call, Items, NoAnswerError, Node, Reply
from deployments.router.gather import (
    BranchRequest,
    combine_timing,
    gather,
    ignore,
    is_partial,
    sender,
)
from deployments.router.scores import distribution

logger = logging.getLogger("ray.serve")

Combine = Callable[[Sequence[Sequence[np.ndarray]], Sequence[float]], Sequence[np.ndarray]]
"""Outputs of each target that answered, and their weights → the route's outputs."""


class EnsembleNode:
    """Node of an ensemble, or of a quorum of the first ``k`` answers."""

    def __init__(
        self,
        route: Ensemble | Quorum,
        contract: Contract,
        targets: Sequence[Node],
        combine: Combine | None,
    ) -> None:
        """``combine``: the user's function; None if the route combines by mean or vote."""
        self.name = route.name
        self.contract = contract
        self._route = route
        self._targets = tuple(targets)
        self._weights = [target.weight for target in route.targets]
        self._combine = combine
        enough = route.k if isinstance(route, Quorum) else len(targets)
        self._policy = GatherPolicy(enough, route.min_answers or enough)

    @property
    def available(self) -> bool:
        """Whether enough targets are available."""
        return sum(target.available for target in self._targets) >= self._policy.least

    async def answer(self, items: Items, call: Call) -> Reply:
        """See :meth:`deployments.router.call.Node.answer`."""
        all_needed = self._policy.least == len(self._targets)
        requests = [
            BranchRequest(target.target, target.timeout_s, sender(node, items))
            for target, node in zip(self._route.targets, self._targets, strict=True)
        ]
        gathered = await gather(
            lambda: self._policy, requests, call if all_needed else call.without_waiting(), ignore
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
                f"route {self.name}: combining the answers failed, for the reason in the "
                "server's log",
                gathered.reports,
            ) from None
        return Reply(
            outputs,
            gathered.reports,
            timing=combine_timing(started),
            partial=is_partial(gathered, self._policy.enough),
        )

    def _combined(
        self, answered: Sequence[tuple[Node, Reply, float]], count: int
    ) -> tuple[np.ndarray, ...]:
        weights = [weight for _, _, weight in answered]
        if self._combine is None:
            shares = [distribution(node.contract, reply.outputs) for node, reply, _ in answered]
            return ((mean if self._route.combine == "mean" else vote)(shares, weights),)
        outputs = tuple(self._combine([reply.outputs for _, reply, _ in answered], weights))
        if len(outputs) != len(self.contract.outputs):
            raise ProgramError(
                f"route {self.name}: {self._route.combine} returned {len(outputs)} outputs, "
                f"expected {len(self.contract.outputs)}"
            )
        for spec, output in zip(self.contract.outputs, outputs, strict=True):
            self._check(output, spec, count)
        return outputs

    def _check(self, output: object, spec: TensorSpec, count: int) -> None:
        expected = f"{spec.dtype}{[count, *spec.item_shape]}"
        actual = type(output).__name__
        if isinstance(output, np.ndarray):
            actual = f"{output.dtype}{list(output.shape)}"
        if actual != expected:
            raise ProgramError(
                f"route {self.name}: {self._route.combine} returned {actual} as {spec.name}, "
                f"expected {expected}"
            )

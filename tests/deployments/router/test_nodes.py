"""What a route makes of targets that are partial, broken, slow or not there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from aiohttp import web
from stand_in import CONTRACT, PREFIX, asking, healthy, replica

from cluster.config.base import parse
from cluster.config.routing import RouterArgs
from cluster.routing.contracts import Contract, Scores
from cluster.tensors import TensorSpec
from deployments.router.call import Call, Items, NoAnswerError, Reply
from deployments.router.comparison import Background
from deployments.router.nodes.canary import CanaryNode
from deployments.router.nodes.cascade import CascadeNode
from deployments.router.nodes.ensemble import EnsembleNode
from deployments.router.nodes.hedge import HedgeNode
from deployments.router.nodes.multi_task import MultiTaskNode
from deployments.router.nodes.scatter import PARTS_UNDER_WAY, ScatterNode
from deployments.router.nodes.shadow import ShadowNode

X = TensorSpec(name="x", datatype="FP32", shape=(-1, 2))
SHARES = TensorSpec(name="probabilities", datatype="FP32", shape=(-1, 2))
SCORES = Contract((X,), (SHARES,), ("a", "b"), Scores.PROBABILITIES, None)
ITEM = Items([np.zeros((1, 2), np.float32)])

Do = Callable[[], Awaitable[Reply]]


def route(**fields: Any) -> Any:
    return parse({"routes": [{"name": "r", **fields}]}, RouterArgs, "args").routes[0]


def reply(first: float = 0.5, partial: bool = False) -> Reply:
    return Reply((np.array([[first, 1 - first]], np.float32),), partial=partial)


class Stub:
    """A target that does what the test says."""

    def __init__(self, do: Do | None = None, there: bool = True) -> None:
        self.name = "stub"
        self.contract = SCORES
        self.there = there
        self.asked = 0
        self.cancelled = 0
        self._do = do

    async def answer(self, items: Items, call: Call) -> Reply:
        self.asked += 1
        try:
            async with asyncio.timeout(call.left_s):
                return await self._do() if self._do else reply()
        except TimeoutError:
            raise NoAnswerError(504, "late") from None
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


def failing(status: int) -> Do:
    async def fail() -> Reply:
        raise NoAnswerError(status, "no")

    return fail


def taking(seconds: float) -> Do:
    async def wait() -> Reply:
        await asyncio.sleep(seconds)
        return reply()

    return wait


def partial() -> Do:
    async def some() -> Reply:
        return reply(partial=True)

    return some


def call(seconds: float = 5, number: int = 0) -> Call:
    return Call(time.monotonic() + seconds, f"request {number}")


def asked(node: Any, seconds: float = 5) -> Reply:
    return asyncio.run(node.answer(ITEM, call(seconds)))


# ---------------------------------------------------------------------- partial, broken


def test_what_is_partial_below_is_partial_above() -> None:
    cascade = route(kind="cascade", targets=["a", "b"], thresholds=0.9)
    for targets in ((Stub(partial()), Stub()), (Stub(), Stub(partial()))):
        node = CascadeNode(cascade, SCORES, targets, lambda: [0.9], lambda name, items: None)
        assert asked(node).partial
    tasks = route(kind="multi_task", tasks={"one": "a", "two": "b"})
    assert asked(MultiTaskNode(tasks, SCORES, [Stub(), Stub(partial())])).partial
    assert not asked(MultiTaskNode(tasks, SCORES, [Stub(), Stub()])).partial


def test_a_function_that_raises_is_one_failed_branch() -> None:
    output = {"name": "probabilities", "datatype": "FP32", "shape": [-1, 2]}
    own = route(kind="ensemble", targets=["a", "b"], combine="python:m:f", outputs=[output])

    def broken(answers: Any, weights: Any) -> Any:
        raise RuntimeError("/a/path")

    inner = EnsembleNode(own, SCORES, [Stub(), Stub()], broken)
    with pytest.raises(NoAnswerError, match="what combines the answers failed") as error:
        asked(inner)
    assert error.value.http_status == 502
    assert "/a/path" not in str(error.value)
    outer = route(kind="ensemble", targets=["a", "b"], min_answers=1)
    found = asked(EnsembleNode(outer, SCORES, [Stub(), inner], None))
    assert found.partial
    assert [report.ended.value for report in found.reports] == ["ok", "failed"]


@pytest.mark.parametrize("kind", ["ensemble", "multi_task", "hedge", "scatter"])
def test_route_without_time_left_is_504(kind: str) -> None:
    targets = [Stub(), Stub()]
    if kind == "ensemble":
        node: Any = EnsembleNode(route(kind=kind, targets=["a", "b"]), SCORES, targets, None)
    elif kind == "multi_task":
        node = MultiTaskNode(route(kind=kind, tasks={"x": "a", "y": "b"}), SCORES, targets)
    elif kind == "hedge":
        node = HedgeNode(route(kind=kind, target="a"), SCORES, *targets, lambda: None)
    else:
        node = ScatterNode(route(kind=kind, target="a", part_items=1), SCORES, targets[0], 1)
    with pytest.raises(NoAnswerError, match="too few answers: the time was over") as error:
        asked(node, seconds=0)
    assert error.value.http_status == 504
    assert [target.asked for target in targets] == [0, 0]


# ---------------------------------------------------------------------- canary, shadow


def canary(new: Stub, **fields: Any) -> tuple[CanaryNode, Stub, list[str]]:
    returned: list[str] = []
    settings = {"candidate": "b", "share": 1.0, "window": 20, "min_requests": 10, **fields}
    given = route(kind="canary", target="a", **settings)
    old = Stub()
    return CanaryNode(given, SCORES, old, new, Background(), returned.append), old, returned


def many(node: CanaryNode, seconds: float = 5, count: int = 30) -> None:
    async def run() -> None:
        for number in range(count):
            await node.answer(ITEM, call(seconds, number))

    asyncio.run(run())


def test_a_candidate_that_is_not_there_or_at_capacity_is_not_judged() -> None:
    missing = Stub(there=False)
    node, old, returned = canary(missing)
    many(node)
    assert (missing.asked, old.asked, returned) == (0, 30, [])
    busy = Stub(failing(503))
    node, old, returned = canary(busy)
    many(node)
    assert (busy.asked, old.asked, returned) == (30, 30, [])


def test_a_candidate_that_fails_returns_for_good() -> None:
    broken = Stub(failing(502))
    node, old, returned = canary(broken)
    many(node)
    assert (broken.asked, old.asked, len(returned)) == (10, 30, 1)


def test_a_client_with_no_time_rolls_nothing_back_and_the_old_version_has_the_rest() -> None:
    slow = Stub(taking(9))
    node, old, returned = canary(slow)
    many(node, seconds=0.04, count=15)
    assert (slow.asked, old.asked, returned) == (15, 15, [])


def test_a_candidate_over_its_own_time_is_judged() -> None:
    slow = Stub(taking(9))
    node, old, returned = canary(slow, candidate={"target": "b", "timeout_s": 0.01})
    many(node, count=15)
    assert (slow.asked, old.asked, len(returned)) == (10, 15, 1)


def test_a_shadow_stops_with_the_request_that_it_goes_beside() -> None:
    async def run() -> Stub:
        shadow, given = Stub(taking(9)), route(kind="shadow", target="a", shadow="b")
        node = ShadowNode(
            given, SCORES, Stub(failing(502)), shadow, Background(), lambda *all: None
        )
        with pytest.raises(NoAnswerError):
            await node.answer(ITEM, call())
        await asyncio.sleep(0)
        waiting = ShadowNode(given, SCORES, Stub(taking(9)), shadow, Background(), print)
        task = asyncio.ensure_future(waiting.answer(ITEM, call()))
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.sleep(0.05)
        assert task.cancelled()
        return shadow

    shadow = asyncio.run(run())
    assert shadow.asked >= 1
    assert shadow.cancelled == shadow.asked


# ---------------------------------------------------------------------- scatter, hedge


def test_a_large_batch_is_asked_for_some_parts_at_a_time() -> None:
    under_way, most = 0, 0

    async def part() -> Reply:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.001)
        under_way -= 1
        return reply()

    node = ScatterNode(route(kind="scatter", target="a", part_items=1), SCORES, Stub(part), 1)
    found = asyncio.run(node.answer(Items([np.zeros((1000, 2), np.float32)]), call(30)))
    assert found.outputs[0].shape == (1000, 2)
    assert most == PARTS_UNDER_WAY
    assert [report.name for report in found.reports] == ["a"]


def test_an_error_of_a_large_batch_names_some_of_its_parts() -> None:
    node = ScatterNode(
        route(kind="scatter", target="a", part_items=1), SCORES, Stub(failing(502)), 1
    )
    with pytest.raises(NoAnswerError) as error:
        asyncio.run(node.answer(Items([np.zeros((1000, 2), np.float32)]), call(30)))
    assert len(error.value.reports) <= 16
    assert len(str(error.value)) < 1000


def test_a_hedge_over_several_requests_to_one_model_answers() -> None:
    async def run() -> Reply:
        async with replica(healthy) as one, replica(healthy) as two, asking() as node:
            node.at(f"127.0.0.1:{one}", f"127.0.0.1:{two}")
            parts = ScatterNode(route(kind="scatter", target="a"), CONTRACT, node.model, 1)
            hedged = route(kind="hedge", target="a", after_ms=0, budget=1.0)
            hedge = HedgeNode(hedged, CONTRACT, parts, parts, lambda: None)
            return await hedge.answer(Items([np.ones((5, 2), np.float32)]), call())

    assert asyncio.run(run()).outputs[0].shape == (5, 2)


def test_a_hedge_asks_its_only_replica_again_as_a_model_alone_does() -> None:
    seen = []

    async def dropping_first(request: web.Request) -> web.Response:
        seen.append(request)
        if len(seen) == 1:
            assert request.transport is not None
            request.transport.close()
        return await healthy(request)

    async def run() -> Reply:
        async with replica(dropping_first) as port, asking() as node:
            node.at(f"127.0.0.1:{port}")
            hedged = route(kind="hedge", target="a", after_ms=5000)
            hedge = HedgeNode(hedged, CONTRACT, node.model, node.model, lambda: None)
            assert node.replicas.of(PREFIX)
            return await hedge.answer(Items([np.ones((1, 2), np.float32)]), call())

    assert asyncio.run(run()).outputs[0].tolist() == [[1, 1]]
    assert len(seen) == 2

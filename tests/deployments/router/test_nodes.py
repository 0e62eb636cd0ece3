"""Routes with targets that are partial, broken, slow or unavailable."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from aiohttp import web
from stub_replica import CONTRACT, PREFIX, healthy, replica, stubbed_model

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
from deployments.router.nodes.scatter import MAX_PARTS_IN_FLIGHT, ScatterNode
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
    """Target with the behaviour that a test passes in."""

    def __init__(self, do: Do | None = None, available: bool = True) -> None:
        self.name = "stub"
        self.contract = SCORES
        self.available = available
        self.calls = 0
        self.cancelled = 0
        self._do = do

    async def answer(self, items: Items, call: Call) -> Reply:
        self.calls += 1
        try:
            async with asyncio.timeout(call.remaining_s):
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


def answer(node: Any, seconds: float = 5) -> Reply:
    return asyncio.run(node.answer(ITEM, call(seconds)))


# ---------------------------------------------------------------------- partial, broken


def test_reply_is_partial_if_target_reply_is_partial() -> None:
    cascade = route(kind="cascade", targets=["a", "b"], thresholds=0.9)
    for targets in ((Stub(partial()), Stub()), (Stub(), Stub(partial()))):
        node = CascadeNode(cascade, SCORES, targets, lambda: [0.9], lambda name, items: None)
        assert answer(node).partial
    tasks = route(kind="multi_task", tasks={"one": "a", "two": "b"})
    assert answer(MultiTaskNode(tasks, SCORES, [Stub(), Stub(partial())])).partial
    assert not answer(MultiTaskNode(tasks, SCORES, [Stub(), Stub()])).partial


def test_combine_function_that_raises_is_failed_branch() -> None:
    output = {"name": "probabilities", "datatype": "FP32", "shape": [-1, 2]}
    custom = route(kind="ensemble", targets=["a", "b"], combine="python:m:f", outputs=[output])

    def broken(answers: Any, weights: Any) -> Any:
        raise RuntimeError("/a/path")

    inner = EnsembleNode(custom, SCORES, [Stub(), Stub()], broken)
    with pytest.raises(NoAnswerError, match="combining the answers failed") as error:
        answer(inner)
    assert error.value.http_status == 502
    assert "/a/path" not in str(error.value)
    outer = route(kind="ensemble", targets=["a", "b"], min_answers=1)
    combined = answer(EnsembleNode(outer, SCORES, [Stub(), inner], None))
    assert combined.partial
    assert [report.outcome.value for report in combined.reports] == ["ok", "failed"]


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
    with pytest.raises(NoAnswerError, match="too few answers: the deadline passed") as error:
        answer(node, seconds=0)
    assert error.value.http_status == 504
    assert [target.calls for target in targets] == [0, 0]


# ---------------------------------------------------------------------- canary, shadow


def canary(new: Stub, **fields: Any) -> tuple[CanaryNode, Stub, list[str]]:
    rollbacks: list[str] = []
    settings = {"candidate": "b", "share": 1.0, "window": 20, "min_requests": 10, **fields}
    config = route(kind="canary", target="a", **settings)
    old = Stub()
    return CanaryNode(config, SCORES, old, new, Background(), rollbacks.append), old, rollbacks


def many(node: CanaryNode, seconds: float = 5, count: int = 30) -> None:
    async def run() -> None:
        for number in range(count):
            await node.answer(ITEM, call(seconds, number))

    asyncio.run(run())


def test_canary_ignores_unavailable_and_busy_candidate() -> None:
    missing = Stub(available=False)
    node, old, rollbacks = canary(missing)
    many(node)
    assert (missing.calls, old.calls, rollbacks) == (0, 30, [])
    busy = Stub(failing(503))
    node, old, rollbacks = canary(busy)
    many(node)
    assert (busy.calls, old.calls, rollbacks) == (30, 30, [])


def test_canary_rolls_back_failing_candidate_once() -> None:
    broken = Stub(failing(502))
    node, old, rollbacks = canary(broken)
    many(node)
    assert (broken.calls, old.calls, len(rollbacks)) == (10, 30, 1)


def test_canary_ignores_timeouts_of_client_deadline() -> None:
    slow = Stub(taking(9))
    node, old, rollbacks = canary(slow)
    many(node, seconds=0.04, count=15)
    assert (slow.calls, old.calls, rollbacks) == (15, 15, [])


def test_canary_judges_candidate_over_its_timeout() -> None:
    slow = Stub(taking(9))
    node, old, rollbacks = canary(slow, candidate={"target": "b", "timeout_s": 0.01})
    many(node, count=15)
    assert (slow.calls, old.calls, len(rollbacks)) == (10, 15, 1)


def test_shadow_request_is_cancelled_with_live_request() -> None:
    async def run() -> Stub:
        shadow, config = Stub(taking(9)), route(kind="shadow", target="a", shadow="b")
        node = ShadowNode(
            config, SCORES, Stub(failing(502)), shadow, Background(), lambda *all: None
        )
        with pytest.raises(NoAnswerError):
            await node.answer(ITEM, call())
        await asyncio.sleep(0)
        waiting = ShadowNode(config, SCORES, Stub(taking(9)), shadow, Background(), print)
        task = asyncio.ensure_future(waiting.answer(ITEM, call()))
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.sleep(0.05)
        assert task.cancelled()
        return shadow

    shadow = asyncio.run(run())
    assert shadow.calls >= 1
    assert shadow.cancelled == shadow.calls


# ---------------------------------------------------------------------- scatter, hedge


def test_scatter_limits_parts_in_flight() -> None:
    in_flight, peak = 0, 0

    async def part() -> Reply:
        nonlocal in_flight, peak
        in_flight += 1
        peak = max(peak, in_flight)
        await asyncio.sleep(0.001)
        in_flight -= 1
        return reply()

    node = ScatterNode(route(kind="scatter", target="a", part_items=1), SCORES, Stub(part), 1)
    combined = asyncio.run(node.answer(Items([np.zeros((1000, 2), np.float32)]), call(30)))
    assert combined.outputs[0].shape == (1000, 2)
    assert peak == MAX_PARTS_IN_FLIGHT
    assert [report.name for report in combined.reports] == ["a"]


def test_scatter_error_names_few_parts() -> None:
    node = ScatterNode(
        route(kind="scatter", target="a", part_items=1), SCORES, Stub(failing(502)), 1
    )
    with pytest.raises(NoAnswerError) as error:
        asyncio.run(node.answer(Items([np.zeros((1000, 2), np.float32)]), call(30)))
    assert len(error.value.reports) <= 16
    assert len(str(error.value)) < 1000


def test_hedge_over_scatter_of_one_model_answers() -> None:
    async def run() -> Reply:
        async with replica(healthy) as one, replica(healthy) as two, stubbed_model() as node:
            node.at(f"127.0.0.1:{one}", f"127.0.0.1:{two}")
            parts = ScatterNode(route(kind="scatter", target="a"), CONTRACT, node.model, 1)
            hedged = route(kind="hedge", target="a", after_ms=0, budget=1.0)
            hedge = HedgeNode(hedged, CONTRACT, parts, parts, lambda: None)
            return await hedge.answer(Items([np.ones((5, 2), np.float32)]), call())

    assert asyncio.run(run()).outputs[0].shape == (5, 2)


@pytest.mark.parametrize(("k", "expected"), [(1, 0.9), (2, 0.5)])
def test_quorum_uses_k_of_answers_that_arrive_at_once(k: int, expected: float) -> None:
    async def first() -> Reply:
        return reply(0.9)

    async def second() -> Reply:
        return reply(0.1)

    async def third() -> Reply:
        return reply(0.0)

    quorum = route(kind="quorum", k=k, targets=["a", "b", "c"])
    targets = [Stub(do) for do in (first, second, third)]
    combined = answer(EnsembleNode(quorum, SCORES, targets, None))
    assert combined.outputs[0][0, 0] == pytest.approx(expected)
    assert [report.outcome.value for report in combined.reports] == [
        *["ok"] * k,
        *["cancelled"] * (3 - k),
    ]
    assert not combined.partial


def test_hedge_retries_its_only_replica() -> None:
    seen = []

    async def dropping_first(request: web.Request) -> web.Response:
        seen.append(request)
        if len(seen) == 1:
            assert request.transport is not None
            request.transport.close()
        return await healthy(request)

    async def run() -> Reply:
        async with replica(dropping_first) as port, stubbed_model() as node:
            node.at(f"127.0.0.1:{port}")
            hedged = route(kind="hedge", target="a", after_ms=5000)
            hedge = HedgeNode(hedged, CONTRACT, node.model, node.model, lambda: None)
            assert node.replicas.of(PREFIX)
            return await hedge.answer(Items([np.ones((1, 2), np.float32)]), call())

    assert asyncio.run(run()).outputs[0].tolist() == [[1, 1]]
    assert len(seen) == 2

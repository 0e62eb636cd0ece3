"""Attempts of a router at a replica that drops connections, rejects work or is unavailable."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web
from stub_replica import StubbedModel, healthy, replica, stubbed_model

from deployments.local.ports import free_ports
from deployments.router.call import NoAnswerError

SOON_S = 5  # far below the deadline of a request, which no attempt may wait for


def dropping(times: int) -> tuple[Callable[[web.Request], Awaitable[web.Response]], list[int]]:
    """Return the handler of a replica that drops so many connections, and its list of requests."""
    seen: list[int] = []

    async def infer(request: web.Request) -> web.Response:
        seen.append(len(seen))
        if len(seen) <= times:
            assert request.transport is not None
            request.transport.close()
        return await healthy(request)

    return infer, seen


def refusing(status: int) -> tuple[Callable[[web.Request], Awaitable[web.Response]], list[int]]:
    seen: list[int] = []

    async def infer(request: web.Request) -> web.Response:
        seen.append(len(seen))
        await request.read()
        return web.json_response({"error": "at capacity"}, status=status)

    return infer, seen


def run(scenario: Callable[[StubbedModel], Awaitable[Any]]) -> float:
    """Run the scenario; return its duration in seconds."""

    async def timed() -> float:
        async with stubbed_model() as node:
            started = time.monotonic()
            await scenario(node)
            return time.monotonic() - started

    return asyncio.run(timed())


def test_only_replica_is_retried_after_broken_connection() -> None:
    infer, seen = dropping(1)

    async def scenario(node: StubbedModel) -> None:
        async with replica(infer) as port:
            node.at(f"127.0.0.1:{port}")
            await node.ask()

    assert run(scenario) < SOON_S
    assert len(seen) == 2


def test_second_broken_connection_is_502() -> None:
    infer, seen = dropping(9)

    async def scenario(node: StubbedModel) -> None:
        async with replica(infer) as port:
            node.at(f"127.0.0.1:{port}")
            with pytest.raises(NoAnswerError, match="m: the connection broke") as error:
                await node.ask()
            assert error.value.http_status == 502

    assert run(scenario) < SOON_S
    assert len(seen) == 2


@pytest.mark.parametrize("others", [0, 1])
def test_overloaded_replica_is_replaced_if_another_exists(others: int) -> None:
    infer, seen = refusing(503)

    async def scenario(node: StubbedModel) -> None:
        async with replica(infer) as port, replica(healthy) as other:
            node.at(f"127.0.0.1:{port}", *[f"127.0.0.1:{other}"] * others)
            for slow in node.replicas.of("/v2/models/m")[1:]:
                slow.took(9.0, time.monotonic())  # so that it is not called first
            if others:
                await node.ask()
                return
            with pytest.raises(NoAnswerError, match="m: at capacity") as error:
                await node.ask()
            assert error.value.http_status == 503

    assert run(scenario) < SOON_S
    assert len(seen) == 1


def test_request_waits_for_next_replica() -> None:
    async def scenario(node: StubbedModel) -> None:
        (gone,) = free_ports(1)
        node.at(f"127.0.0.1:{gone}")
        pending = asyncio.ensure_future(node.ask())
        await asyncio.sleep(0.3)
        assert not pending.done()
        async with replica(healthy) as port:
            node.at(f"127.0.0.1:{port}")
            await pending

    assert run(scenario) < SOON_S


def test_request_waits_after_replica_dies_during_inference() -> None:
    """The same as for a process that is killed during inference."""
    infer, seen = dropping(9)

    async def scenario(node: StubbedModel) -> None:
        async with replica(infer) as port:
            node.at(f"127.0.0.1:{port}")
            pending = asyncio.ensure_future(node.ask())
            while not seen:  # noqa: ASYNC110 - a turn of the loop at a time
                await asyncio.sleep(0)
            assert not pending.done()
            # The port is closed before the retry.
            (gone,) = free_ports(1)
            node.at(f"127.0.0.1:{gone}")
        async with replica(healthy) as port:
            await asyncio.sleep(0.2)
            node.at(f"127.0.0.1:{port}")
            await pending

    assert run(scenario) < SOON_S


def test_wait_for_replica_ends_at_deadline() -> None:
    async def scenario(node: StubbedModel) -> None:
        (gone,) = free_ports(1)
        node.at(f"127.0.0.1:{gone}")
        with pytest.raises(NoAnswerError, match="m had no replica before the deadline") as error:
            await node.ask(timeout_s=0.3)
        assert error.value.http_status == 504

    assert 0.25 < run(scenario) < SOON_S

"""What a router does when a replica breaks a connection, refuses work, or is not there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web
from stand_in import Asking, asking, healthy, replica

from deployments.local.ports import free_ports
from deployments.router.call import NoAnswerError

SOON_S = 5  # far below the deadline of a request: nobody may wait for that


def dropping(times: int) -> tuple[Callable[[web.Request], Awaitable[web.Response]], list[int]]:
    """A replica that breaks the connection so many times; and which request came when."""
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


def run(scenario: Callable[[Asking], Awaitable[Any]]) -> float:
    """Seconds that it took."""

    async def started() -> float:
        async with asking() as node:
            begun = time.monotonic()
            await scenario(node)
            return time.monotonic() - begun

    return asyncio.run(started())


def test_the_only_replica_is_asked_again_when_the_connection_breaks() -> None:
    infer, seen = dropping(1)

    async def scenario(node: Asking) -> None:
        async with replica(infer) as port:
            node.at(f"127.0.0.1:{port}")
            await node.ask()

    assert run(scenario) < SOON_S
    assert len(seen) == 2


def test_two_broken_connections_are_an_answer() -> None:
    infer, seen = dropping(9)

    async def scenario(node: Asking) -> None:
        async with replica(infer) as port:
            node.at(f"127.0.0.1:{port}")
            with pytest.raises(NoAnswerError, match="m: the connection broke") as error:
                await node.ask()
            assert error.value.http_status == 502

    assert run(scenario) < SOON_S
    assert len(seen) == 2


@pytest.mark.parametrize("others", [0, 1])
def test_one_that_refuses_work_is_left_for_another_if_there_is_one(others: int) -> None:
    infer, seen = refusing(503)

    async def scenario(node: Asking) -> None:
        async with replica(infer) as port, replica(healthy) as other:
            node.at(f"127.0.0.1:{port}", *[f"127.0.0.1:{other}"] * others)
            for each in node.replicas.of("/v2/models/m")[1:]:
                each.took(9.0, time.monotonic())  # so that it is not asked first
            if others:
                await node.ask()
                return
            with pytest.raises(NoAnswerError, match="m: at capacity") as error:
                await node.ask()
            assert error.value.http_status == 503

    assert run(scenario) < SOON_S
    assert len(seen) == 1


def test_one_that_is_gone_is_waited_for_until_there_is_another() -> None:
    async def scenario(node: Asking) -> None:
        (gone,) = free_ports(1)
        node.at(f"127.0.0.1:{gone}")
        asked = asyncio.ensure_future(node.ask())
        await asyncio.sleep(0.3)
        assert not asked.done()
        async with replica(healthy) as port:
            node.at(f"127.0.0.1:{port}")
            await asked

    assert run(scenario) < SOON_S


def test_one_that_breaks_off_and_is_gone_is_waited_for_too() -> None:
    """As a process that is killed while it computes."""
    infer, seen = dropping(9)

    async def scenario(node: Asking) -> None:
        async with replica(infer) as port:
            node.at(f"127.0.0.1:{port}")
            asked = asyncio.ensure_future(node.ask())
            while not seen:  # noqa: ASYNC110 - a turn of the loop at a time
                await asyncio.sleep(0)
            assert not asked.done()
            # Its door is shut before it can be asked again.
            (gone,) = free_ports(1)
            node.at(f"127.0.0.1:{gone}")
        async with replica(healthy) as port:
            await asyncio.sleep(0.2)
            node.at(f"127.0.0.1:{port}")
            await asked

    assert run(scenario) < SOON_S


def test_nobody_is_waited_for_beyond_the_deadline() -> None:
    async def scenario(node: Asking) -> None:
        (gone,) = free_ports(1)
        node.at(f"127.0.0.1:{gone}")
        with pytest.raises(NoAnswerError, match="m had no replica in time") as error:
            await node.ask(timeout_s=0.3)
        assert error.value.http_status == 504

    assert 0.25 < run(scenario) < SOON_S

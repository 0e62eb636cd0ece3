"""Answers of an artifact that the routes were not planned for."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web
from stand_in import Asking, Handler, asking, given_back, replica

from cluster.protocol.infer import HEADER_LENGTH
from deployments.router.call import NoAnswerError


def of_version(version: str) -> Handler:
    async def infer(request: web.Request) -> web.Response:
        return given_back(await request.read(), request.headers[HEADER_LENGTH], version)

    return infer


def asked(version: str, refusal: str | None, times: int) -> tuple[Asking, list[object]]:
    """Ask a model of that version so many times at once, then once more."""

    async def run() -> tuple[Asking, list[object]]:
        async with replica(of_version(version)) as port, asking() as node:
            node.refusal = refusal
            node.at(f"127.0.0.1:{port}")
            asks = [node.ask() for _ in range(times)]
            found: list[object] = await asyncio.gather(*asks, return_exceptions=True)
            found += await asyncio.gather(node.ask(), return_exceptions=True)
            return node, found

    return asyncio.run(run())


def test_the_version_that_was_planned_for_is_not_looked_into() -> None:
    node, _ = asked("1", "never", 3)
    assert node.replanned == []


def test_another_version_is_planned_for_once_and_taken() -> None:
    node, found = asked("2", None, 8)
    assert node.replanned == ["m"]
    assert not any(isinstance(each, Exception) for each in found)


def test_a_version_that_does_not_fit_is_refused_with_the_reason() -> None:
    node, found = asked("2", "it tells other labels apart", 8)
    assert node.replanned == ["m"]
    for each in found:
        assert isinstance(each, NoAnswerError)
        assert each.http_status == 503
        assert str(each) == (
            "m serves another artifact now: it tells other labels apart; deploy the router again"
        )


def test_a_new_model_is_waited_for_within_the_deadline() -> None:
    async def run() -> None:
        async with replica(of_version("2")) as port, asking() as node:
            node.at(f"127.0.0.1:{port}")
            with pytest.raises((NoAnswerError, TimeoutError)):
                async with asyncio.timeout(0.005):
                    await node.ask()
            await node.ask()
            assert set(node.replanned) == {"m"}

    asyncio.run(run())

"""Answers of an artifact that is not in the router's plan."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web
from stub_replica import Handler, StubbedModel, echo, replica, stubbed_model

from cluster.protocol.binary_tensor import HEADER_LENGTH
from deployments.router import versions
from deployments.router.call import NoAnswerError


def of_version(version: str) -> Handler:
    async def infer(request: web.Request) -> web.Response:
        return echo(await request.read(), request.headers[HEADER_LENGTH], version)

    return infer


def ask(version: str, refusal: str | None, times: int) -> tuple[StubbedModel, list[object]]:
    """Send so many requests at once to a model of that version, then another one."""

    async def run() -> tuple[StubbedModel, list[object]]:
        async with replica(of_version(version)) as port, stubbed_model() as node:
            node.refusal = refusal
            node.at(f"127.0.0.1:{port}")
            asks = [node.ask() for _ in range(times)]
            answers: list[object] = await asyncio.gather(*asks, return_exceptions=True)
            answers += await asyncio.gather(node.ask(), return_exceptions=True)
            return node, answers

    return asyncio.run(run())


def test_planned_version_is_not_replanned() -> None:
    node, _ = ask("1", "never", 3)
    assert node.replanned == []


def test_new_version_is_replanned_once_and_used() -> None:
    node, answers = ask("2", None, 8)
    assert node.replanned == ["m"]
    assert not any(isinstance(answer, Exception) for answer in answers)


def test_unsuitable_version_is_rejected_with_reason() -> None:
    node, answers = ask("2", "its labels differ", 8)
    assert node.replanned == ["m"]
    for error in answers:
        assert isinstance(error, NoAnswerError)
        assert error.http_status == 503
        assert str(error) == ("m serves a new artifact: its labels differ; deploy the router again")


def test_replan_takes_no_longer_than_deadline() -> None:
    async def run() -> None:
        async with replica(of_version("2")) as port, stubbed_model() as node:
            node.at(f"127.0.0.1:{port}")
            with pytest.raises((NoAnswerError, TimeoutError)):
                async with asyncio.timeout(0.005):
                    await node.ask()
            await node.ask()
            assert set(node.replanned) == {"m"}

    asyncio.run(run())


def test_rollback_applies_earlier_thresholds() -> None:
    """The answers of a version are judged by the thresholds that were found with it."""

    async def run() -> StubbedModel:
        async with stubbed_model() as node:
            for version in ("1", "2", "2", "1", "2"):
                async with replica(of_version(version)) as port:
                    node.at(f"127.0.0.1:{port}")
                    await node.ask()
            return node

    node = asyncio.run(run())
    assert node.applied == [{"c": (0.2,)}, {"c": (0.1,)}, {"c": (0.2,)}]
    assert node.replanned == ["m"]


def test_transient_failure_is_planned_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "RETRY_S", 0.0)

    async def run() -> None:
        async with replica(of_version("2")) as port, stubbed_model() as node:
            node.at(f"127.0.0.1:{port}")
            node.refusal, node.may_change = "the store is out of reach", True
            with pytest.raises(NoAnswerError):
                await node.ask()
            node.refusal = None
            await node.ask()

    asyncio.run(run())

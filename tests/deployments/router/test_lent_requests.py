"""A large request to a replica on this node goes through memory; to any other it goes as bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiohttp import web
from stand_in import PREFIX, asking, given_back, replica

from cluster.protocol.infer import HEADER_LENGTH
from cluster.routing.replicas import Replica
from cluster.runtime.lent_bodies import read_lent
from deployments.http.body import LENT_BODY
from deployments.router.model_client import LENT_FROM_BYTES

LARGE, SMALL = LENT_FROM_BYTES // 8, 3

Seen = list[tuple[bool, int]]
"""Of each request: whether its body was lent, and the bytes that came over the connection."""


def asked(
    items: list[int], address: Callable[[int], str], reads: bool = True
) -> tuple[Seen, Replica]:
    """Ask for so many items each, one request after the other."""
    seen: Seen = []

    async def infer(request: web.Request) -> web.Response:
        lent = request.headers.get(LENT_BODY)
        body = await request.read()
        seen.append((lent is not None, len(body)))
        if lent is not None:
            if not reads:
                return web.json_response({"error": "out of reach"}, status=412)
            body = bytes(read_lent(lent, 2**30))
        return given_back(body, request.headers[HEADER_LENGTH])

    async def run() -> Replica:
        async with replica(infer) as port, asking() as node:
            node.at(address(port))
            for count in items:
                await node.ask(count)
            return node.replicas.of(PREFIX)[0]

    return seen, asyncio.run(run())


def near(port: int) -> str:
    return f"127.0.0.1:{port}"


def test_a_large_request_on_this_node_sends_no_body() -> None:
    seen, found = asked([LARGE, SMALL], near)
    assert seen[0] == (True, 0)
    assert not seen[1][0]
    assert seen[1][1] > SMALL * 8
    assert found.near


def test_a_replica_elsewhere_gets_bytes() -> None:
    seen, _ = asked([LARGE], lambda port: f"localhost:{port}")
    assert [lent for lent, _ in seen] == [False]
    assert seen[0][1] > LARGE * 8


def test_a_replica_that_cannot_read_the_memory_gets_bytes_from_then_on() -> None:
    seen, found = asked([LARGE, LARGE], near, reads=False)
    assert [lent for lent, _ in seen] == [True, False, False]
    assert not found.near

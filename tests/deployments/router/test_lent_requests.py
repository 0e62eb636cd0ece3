"""Large requests: through memory to a replica on this node, as bytes to any other replica."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiohttp import web
from stub_replica import PREFIX, echo, replica, stubbed_model

from cluster.protocol.binary_tensor import HEADER_LENGTH
from cluster.routing.replicas import Replica
from cluster.runtime.lent_bodies import read_lent
from deployments.http.body import LENT_BODY
from deployments.router.model_client import LENT_FROM_BYTES

LARGE, SMALL = LENT_FROM_BYTES // 8, 3

Seen = list[tuple[bool, int]]
"""Per request: whether its body was lent, and the bytes received over the connection."""


def send(
    items: list[int], address: Callable[[int], str], reads: bool = True
) -> tuple[Seen, Replica]:
    """Send requests of so many items, one after the other."""
    seen: Seen = []

    async def infer(request: web.Request) -> web.Response:
        lent = request.headers.get(LENT_BODY)
        body = await request.read()
        seen.append((lent is not None, len(body)))
        if lent is not None:
            if not reads:
                return web.json_response({"error": "out of reach"}, status=412)
            body = bytes(read_lent(lent, 2**30))
        return echo(body, request.headers[HEADER_LENGTH])

    async def run() -> Replica:
        async with replica(infer) as port, stubbed_model() as node:
            node.at(address(port))
            for count in items:
                await node.ask(count)
            return node.replicas.of(PREFIX)[0]

    return seen, asyncio.run(run())


def near(port: int) -> str:
    return f"127.0.0.1:{port}"


def test_large_request_on_same_node_sends_no_body() -> None:
    seen, target = send([LARGE, SMALL], near)
    assert seen[0] == (True, 0)
    assert not seen[1][0]
    assert seen[1][1] > SMALL * 8
    assert target.near


def test_remote_replica_gets_bytes() -> None:
    seen, _ = send([LARGE], lambda port: f"localhost:{port}")
    assert [lent for lent, _ in seen] == [False]
    assert seen[0][1] > LARGE * 8


def test_replica_that_cannot_read_memory_gets_bytes() -> None:
    seen, target = send([LARGE, LARGE], near, reads=False)
    assert [lent for lent, _ in seen] == [True, False, False]
    assert not target.near

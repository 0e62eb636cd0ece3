"""A large request to a replica on this node goes through memory; to any other it goes as bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import numpy as np
import pytest
from aiohttp import web

from cluster.protocol.answer import encode_infer
from cluster.protocol.infer import HEADER_LENGTH, decode_infer
from cluster.routing.contracts import Contract, Scores
from cluster.routing.replicas import Replica
from cluster.runtime.lent_bodies import read_lent
from cluster.tensors import TensorSpec
from deployments.body import LENT_BODY
from deployments.fanout.call import Call, Items
from deployments.fanout.models import LENT_FROM_BYTES, Client, ModelNode, ServedModel
from deployments.fanout.replicas import Replicas

SPEC = TensorSpec(name="x", datatype="FP32", shape=(-1, 2))
CONTRACT = Contract((SPEC,), (SPEC,), (), Scores.NONE, None)
LARGE, SMALL = LENT_FROM_BYTES // 8, 3
PREFIX = "/v2/models/m"

Seen = list[tuple[bool, int]]
"""Of each request: whether its body was lent, and the bytes that came over the connection."""


def asked(
    items: list[int], address: Callable[[int], str], reads: bool = True
) -> tuple[list[np.ndarray], Seen, Replica]:
    """Ask a model that gives back its input, for so many items each, one after the other."""
    seen: Seen = []

    async def infer(request: web.Request) -> web.Response:
        lent = request.headers.get(LENT_BODY)
        body = await request.read()
        seen.append((lent is not None, len(body)))
        if lent is not None:
            if not reads:
                return web.json_response({"error": "out of reach"}, status=412)
            body = bytes(read_lent(lent, 2**30))
        length = int(request.headers[HEADER_LENGTH])
        decoded = decode_infer(body, length, (SPEC,), (SPEC,), 2**20)
        encoded = encode_infer("m", "1", decoded, decoded.arrays, (SPEC,))
        return web.Response(body=encoded.body, headers=encoded.headers)

    async def run() -> tuple[list[np.ndarray], Replica]:
        app = web.Application(client_max_size=2**30)
        app.router.add_post(f"{PREFIX}/infer", infer)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        replicas, client = Replicas(), Client()
        replicas.update({PREFIX: [address(port)]}, 0.0)
        node = ModelNode(ServedModel("m", "id", PREFIX, CONTRACT, None), replicas, client)
        try:
            answers = [await one(node, count) for count in items]
        finally:
            await client.close()
            await runner.cleanup()
        return answers, replicas.of(PREFIX)[0]

    def one(node: ModelNode, count: int) -> Awaitable[np.ndarray]:
        async def answer() -> np.ndarray:
            given = np.arange(2 * count, dtype=np.float32).reshape(count, 2)
            call = Call(deadline=asyncio.get_running_loop().time() + 30, request_id="r")
            reply = await node.answer(Items([given]), call)
            np.testing.assert_array_equal(reply.outputs[0], given)
            return reply.outputs[0]

        return answer()

    answers, replica = asyncio.run(run())
    return answers, seen, replica


def near(port: int) -> str:
    return f"127.0.0.1:{port}"


def test_a_large_request_on_this_node_sends_no_body() -> None:
    _, seen, replica = asked([LARGE, SMALL], near)
    assert seen[0] == (True, 0)
    assert not seen[1][0]
    assert seen[1][1] > SMALL * 8
    assert replica.near


def test_a_replica_elsewhere_gets_bytes() -> None:
    _, seen, _ = asked([LARGE], lambda port: f"localhost:{port}")
    assert [lent for lent, _ in seen] == [False]
    assert seen[0][1] > LARGE * 8


def test_a_replica_that_cannot_read_the_memory_gets_bytes_from_then_on() -> None:
    _, seen, replica = asked([LARGE, LARGE], near, reads=False)
    assert [lent for lent, _ in seen] == [True, False, False]
    assert not replica.near


@pytest.mark.parametrize("count", [1, LARGE])
def test_answers_are_those_of_the_items_sent(count: int) -> None:
    (answer,), _, _ = asked([count], near)
    assert answer.shape == (count, 2)

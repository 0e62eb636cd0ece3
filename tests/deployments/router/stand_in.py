"""A model's replica that does what a test says: a real HTTP server, and a node that asks it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import numpy as np
from aiohttp import web

from cluster.protocol.answer import encode_infer
from cluster.protocol.infer import HEADER_LENGTH, decode_infer
from cluster.routing.contracts import Contract, Scores
from cluster.tensors import TensorSpec
from deployments.router.call import Call, Items
from deployments.router.model_client import Client, ModelNode, ServedModel
from deployments.router.replica_table import Replicas
from deployments.router.versions import Versions

SPEC = TensorSpec(name="x", datatype="FP32", shape=(-1, 2))
CONTRACT = Contract((SPEC,), (SPEC,), (), Scores.NONE, None)
PREFIX = "/v2/models/m"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def given_back(body: bytes, header_length: str, version: str = "1") -> web.Response:
    """The answer of a model that gives back its input."""
    decoded = decode_infer(body, int(header_length), (SPEC,), (SPEC,), 2**20)
    encoded = encode_infer("m", version, decoded, decoded.arrays, (SPEC,))
    return web.Response(body=encoded.body, headers=encoded.headers)


async def healthy(request: web.Request) -> web.Response:
    """A replica with nothing wrong."""
    return given_back(await request.read(), request.headers[HEADER_LENGTH])


@asynccontextmanager
async def replica(handler: Handler, port: int = 0) -> AsyncIterator[int]:
    """A server; gives its port."""
    app = web.Application(client_max_size=2**30)
    app.router.add_post(f"{PREFIX}/infer", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


class Asking:
    """A node, and how it is asked."""

    def __init__(self, replicas: Replicas, client: Client) -> None:
        self.replicas = replicas
        self.replanned: list[str] = []
        self.refusal: str | None = None
        """Why an answer of a version that was not planned for is not used."""
        self.model = ModelNode(
            ServedModel("m", "1", PREFIX, CONTRACT, None),
            replicas,
            client,
            Versions({"m": "1"}, self._replan),
        )

    async def _replan(self, model: str) -> str | None:
        self.replanned.append(model)
        await asyncio.sleep(0.01)
        return self.refusal

    def at(self, *addresses: str) -> None:
        """Serve names these replicas from now on."""
        self.replicas.update({PREFIX: addresses}, 0.0)

    async def ask(self, items: int = 1, timeout_s: float = 30) -> np.ndarray:
        """Ask for so many items, and check that they come back."""
        given = np.arange(2 * items, dtype=np.float32).reshape(items, 2)
        deadline = asyncio.get_running_loop().time() + timeout_s
        reply = await self.model.answer(Items([given]), Call(deadline, "r"))
        np.testing.assert_array_equal(reply.outputs[0], given)
        return reply.outputs[0]


@asynccontextmanager
async def asking() -> AsyncIterator[Asking]:
    """A node whose connections end with the test."""
    client = Client()
    try:
        yield Asking(Replicas(), client)
    finally:
        await client.close()

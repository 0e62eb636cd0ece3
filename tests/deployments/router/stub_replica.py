"""Stub of a model's replica: a real HTTP server with a test's handler, and a node that calls it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import numpy as np
from aiohttp import web

from cluster.protocol.answer import encode_infer
from cluster.protocol.binary_tensor import HEADER_LENGTH
from cluster.protocol.infer import decode_infer
from cluster.routing.contracts import Contract, Scores
from cluster.tensors import TensorSpec
from deployments.router.call import Call, Items
from deployments.router.model_client import ModelNode, ReplicaClient, ServedModel
from deployments.router.replica_table import Replicas
from deployments.router.versions import Planned, Thresholds, Versions

SPEC = TensorSpec(name="x", datatype="FP32", shape=(-1, 2))
CONTRACT = Contract((SPEC,), (SPEC,), (), Scores.NONE, None)
PREFIX = "/v2/models/m"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def echo(body: bytes, header_length: str, version: str = "1") -> web.Response:
    """Return the answer of a model that returns its input."""
    decoded = decode_infer(body, int(header_length), (SPEC,), (SPEC,), 2**20)
    encoded = encode_infer("m", version, decoded, decoded.arrays, (SPEC,))
    return web.Response(body=encoded.body, headers=encoded.headers)


async def healthy(request: web.Request) -> web.Response:
    """Answer as a healthy replica."""
    return echo(await request.read(), request.headers[HEADER_LENGTH])


@asynccontextmanager
async def replica(handler: Handler, port: int = 0) -> AsyncIterator[int]:
    """Run a server; yield its port."""
    app = web.Application(client_max_size=2**30)
    app.router.add_post(f"{PREFIX}/infer", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


class StubbedModel:
    """Node of one model, and the replicas that it knows."""

    def __init__(self, replicas: Replicas, client: ReplicaClient) -> None:
        self.replicas = replicas
        self.replanned: list[str] = []
        self.refusal: str | None = None
        """Reason to reject the answers of a new version; None: they are used."""
        self.may_change = False
        self.applied: list[Thresholds] = []
        """Thresholds that the router took over, in order."""
        self.model = ModelNode(
            ServedModel("m", "1", PREFIX, CONTRACT, None),
            replicas,
            client,
            Versions({"m": "1"}, {"c": (0.1,)}, self._replan, self.applied.append),
        )

    async def _replan(self, model: str, version: str) -> Planned:
        self.replanned.append(model)
        await asyncio.sleep(0.01)
        return Planned(self.refusal, {"c": (0.2,)}, may_change=self.may_change)

    def at(self, *addresses: str) -> None:
        """List these replicas, as Serve does."""
        self.replicas.update({PREFIX: addresses}, 0.0)

    async def ask(self, items: int = 1, timeout_s: float = 30) -> np.ndarray:
        """Send so many items, and check that the answer echoes them."""
        array = np.arange(2 * items, dtype=np.float32).reshape(items, 2)
        deadline = asyncio.get_running_loop().time() + timeout_s
        reply = await self.model.answer(Items([array]), Call(deadline, "r"))
        np.testing.assert_array_equal(reply.outputs[0], array)
        return reply.outputs[0]


@asynccontextmanager
async def stubbed_model() -> AsyncIterator[StubbedModel]:
    """Yield a node; close its connections afterwards."""
    client = ReplicaClient()
    try:
        yield StubbedModel(Replicas(), client)
    finally:
        await client.close()

"""A model as a node: requests over HTTP to the replica with the shortest expected response time.

    arrays → body, shared by all targets with the same inputs → POST to a replica
           on this node: a large body stays in memory, and the replica reads it there
          200 → outputs      4xx → an invalid request      5xx, deadline → NoAnswerError
          connection broken, 503 → one retry at another replica; inference is idempotent
          connection refused → another replica, or wait for one

Serve's own handles were measured first: a handle costs a request 3 ms more than a direct request.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass

import aiohttp
from multidict import CIMultiDictProxy
from yarl import URL

from cluster.errors import LentBodyError, ProgramError
from cluster.protocol.binary_tensor import HEADER_LENGTH
from cluster.protocol.client import decode_answer, error_message
from cluster.routing.contracts import Contract
from cluster.routing.replicas import Replica, choose
from cluster.runtime.lent_bodies import Bodies
from deployments.http import tracing
from deployments.http.headers import DEADLINE, LENT_BODY, REQUEST_ID, SERVER_TIMING
from deployments.http.server_timing import parse_server_timing
from deployments.router.call import Body, Call, Items, NoAnswerError, Reply
from deployments.router.replica_table import Replicas
from deployments.router.versions import Versions

LENT_FROM_BYTES = 2**15
"""Smallest body that is lent; sending a smaller one takes no longer than writing it to memory."""

UNREADABLE = LentBodyError.http_status


@dataclass(frozen=True)
class ServedModel:
    """Model behind the router, from its application's config."""

    name: str
    version: str
    """Version in its answers: the beginning of its artifact's id."""

    route_prefix: str
    contract: Contract
    capacity: int | None
    """Requests that one replica accepts at once; None: no limit."""


class ModelNode:
    """Node of one model: chooses a replica and calls it."""

    def __init__(
        self, model: ServedModel, replicas: Replicas, client: ReplicaClient, versions: Versions
    ) -> None:
        self.name = model.name
        self.contract = model.contract
        self._model = model
        self._replicas = replicas
        self._client = client
        self._versions = versions

    @property
    def available(self) -> bool:
        """Whether a replica is known."""
        return bool(self._replicas.of(self._model.route_prefix))

    async def answer(self, items: Items, call: Call) -> Reply:
        """See :meth:`deployments.router.call.Node.answer`."""
        unreachable: set[str] = set()
        tried: set[str] = set()
        body = items.body(self.contract.inputs)
        failure: _FailedError | None = None
        while True:
            replica = await self._replica(call, unreachable, tried, failure)
            if call.addresses is not None:
                call.addresses.add(replica.address)
            try:
                with tracing.client_span(self.name, replica.address) as headers:
                    return await self._ask(replica, body, items.count, call.with_headers(headers))
            except aiohttp.ClientConnectorError:
                # Nothing was sent, so this does not count as an attempt.
                self._replicas.mark_unreachable(self._model.route_prefix, replica.address)
                unreachable.add(replica.address)
            except _FailedError as error:
                if failure is not None:
                    raise NoAnswerError(error.status, f"{self.name}: {error}") from None
                failure = error
                tried.add(replica.address)

    async def _replica(
        self, call: Call, unreachable: set[str], tried: set[str], failure: _FailedError | None
    ) -> Replica:
        """Return the replica to call, preferably an untried one; NoAnswerError if there is none."""
        capacity = self._model.capacity
        while True:
            known = self._replicas.of(self._model.route_prefix)
            free = [replica for replica in known if capacity is None or replica.ongoing < capacity]
            now = time.monotonic()
            replica = choose(free, now, unreachable | tried | call.excluded)
            if replica is None and failure is not None:
                if failure.status == 503:  # the replica is overloaded, and there is no other
                    raise NoAnswerError(503, f"{self.name}: {failure}")
                replica = choose(free, now, unreachable | call.excluded)
            if replica is not None:
                return replica
            if known and not free:
                raise NoAnswerError(503, f"{self.name} is at capacity")
            if not call.waits or call.excluded:
                second = "second " if call.excluded else ""
                raise NoAnswerError(503, f"{self.name} has no {second}replica")
            # The replica is starting or restarting, and the request still has time.
            if not await self._replicas.changed(call.remaining_s):
                raise NoAnswerError(504, f"{self.name} had no replica before the deadline")
            unreachable.clear()

    async def _ask(self, replica: Replica, body: Body, items: int, call: Call) -> Reply:
        url = f"http://{replica.address}{self._model.route_prefix}/infer"
        started = time.monotonic()
        headers = {
            **body.headers,
            **call.headers,
            DEADLINE: f"{call.remaining_s:.4f}",
            REQUEST_ID: call.request_id,
        }
        replica.ongoing += 1
        try:
            async with asyncio.timeout(call.remaining_s):
                status, answer_headers, answer = await self._client.post(
                    url, body, headers, replica.near
                )
                if status == UNREADABLE:
                    replica.near = False
                    status, answer_headers, answer = await self._client.post(
                        url, body, headers, replica.near
                    )
        except TimeoutError:
            _record_cancelled(replica, started)
            raise NoAnswerError(504, f"{self.name}: no answer before the deadline") from None
        except asyncio.CancelledError:
            _record_cancelled(replica, started)
            raise
        except aiohttp.ClientConnectorError:
            raise
        except (aiohttp.ClientError, ConnectionError) as error:
            replica.failed(time.monotonic())
            raise _FailedError(502, f"the connection broke: {error}") from None
        finally:
            replica.ongoing -= 1
        if status == 200:
            now = time.monotonic()
            replica.took(now - started, now)
            try:
                version, outputs = decode_answer(
                    answer, answer_headers.get(HEADER_LENGTH), self.contract.outputs, items
                )
            except ProgramError as error:
                raise NoAnswerError(502, f"{self.name}: {error}") from None
            await self._versions.require(self.name, version)
            return Reply(outputs, timing=parse_server_timing(answer_headers.get(SERVER_TIMING)))
        message = error_message(answer) or f"status {status}"
        if status in (500, 502, 503):
            replica.failed(time.monotonic())
            raise _FailedError(503 if status == 503 else 502, message)
        if status in (408, 504):
            raise NoAnswerError(504, f"{self.name}: {message}")
        if status in (404, 401, 403, 429) or status >= 500:  # the request's content is valid
            raise NoAnswerError(502, f"{self.name}: {message}")
        raise NoAnswerError(status, f"{self.name}: {message}")


def _record_cancelled(replica: Replica, started: float) -> None:
    now = time.monotonic()
    replica.waited(now - started, now)


class _FailedError(Exception):
    """Failed attempt that can be retried: inference is idempotent."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class ReplicaClient:
    """HTTP client of one router, with its connection pool; the owner closes it."""

    def __init__(self) -> None:
        self._bodies = Bodies()
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=4, use_dns_cache=False),
            timeout=aiohttp.ClientTimeout(),  # no default timeout: every request has a deadline
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding"),
        )

    async def post(
        self, url: str, body: Body, headers: dict[str, str], near: bool
    ) -> tuple[int, CIMultiDictProxy[str], bytes]:
        """Send a request; return status, headers and body of the answer.

        ``near``: whether the replica runs on this node, so that it can read a large body from
        memory.
        """
        data = None
        if near and body.size >= LENT_FROM_BYTES:
            # Without memory or file descriptors, the body is sent over the connection.
            with contextlib.suppress(OSError):
                headers, data = {**headers, LENT_BODY: body.lent(self._bodies)}, b""
        if data is None:
            data = body.joined
        async with self._session.post(URL(url, encoded=True), data=data, headers=headers) as answer:
            return answer.status, answer.headers, await answer.read()

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

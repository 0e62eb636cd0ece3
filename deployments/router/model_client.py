"""One model as a node: the replica that is expected to answer first is asked, over HTTP.

    arrays → body, once for all targets that take the same → POST to a replica
           on this node: a large body is left in memory, where all of them read it
          200 → outputs          4xx → the client's fault          5xx, no time → NoAnswerError
          connection broken, 503 → once more, elsewhere; to compute changes nothing
          nobody opens → elsewhere, or as soon as there is another

Serve's own handles were tried first: one costs a request 3 ms more than asking the replica itself.
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
from cluster.protocol.client import decode_answer, error_message
from cluster.protocol.infer import HEADER_LENGTH
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
"""Smaller bodies are sent as quickly as they are written to memory."""

UNREADABLE = LentBodyError.http_status


@dataclass(frozen=True)
class ServedModel:
    """A model behind the router, as its application's config describes it."""

    name: str
    version: str
    """As its answers tell it: the beginning of its artifact's id."""

    route_prefix: str
    contract: Contract
    capacity: int | None
    """Requests that one replica takes before it refuses more; None: any number."""


class ModelNode:
    """See :class:`deployments.router.call.Node`."""

    def __init__(
        self, model: ServedModel, replicas: Replicas, client: Client, versions: Versions
    ) -> None:
        self.name = model.name
        self.contract = model.contract
        self._model = model
        self._replicas = replicas
        self._client = client
        self._versions = versions

    @property
    def there(self) -> bool:
        """Whether a replica is known."""
        return bool(self._replicas.of(self._model.route_prefix))

    async def answer(self, items: Items, call: Call) -> Reply:
        """See :meth:`deployments.router.call.Node.answer`."""
        closed: set[str] = set()
        tried: set[str] = set()
        body = items.body(self.contract.inputs)
        failure: _FailedError | None = None
        while True:
            replica = await self._replica(call, closed, tried, failure)
            if call.asked is not None:
                call.asked.add(replica.address)
            try:
                with tracing.asking(self.name, replica.address) as headers:
                    return await self._ask(replica, body, items.count, call.with_headers(headers))
            except aiohttp.ClientConnectorError:
                # Nothing was sent: that is no attempt.
                self._replicas.lost(self._model.route_prefix, replica.address)
                closed.add(replica.address)
            except _FailedError as error:
                if failure is not None:
                    raise NoAnswerError(error.status, f"{self.name}: {error}") from None
                failure = error
                tried.add(replica.address)

    async def _replica(
        self, call: Call, closed: set[str], tried: set[str], failure: _FailedError | None
    ) -> Replica:
        """Whom to ask, rather one that was not tried; NoAnswerError if there is nobody."""
        while True:
            known = self._replicas.of(self._model.route_prefix)
            most = self._model.capacity
            free = [each for each in known if most is None or each.ongoing < most]
            now = time.monotonic()
            chosen = choose(free, now, closed | tried | call.apart)
            if chosen is None and failure is not None:
                if failure.status == 503:  # it refuses work, and there is no other
                    raise NoAnswerError(503, f"{self.name}: {failure}")
                chosen = choose(free, now, closed | call.apart)
            if chosen is not None:
                return chosen
            if known and not free:
                raise NoAnswerError(503, f"{self.name} is at capacity")
            if not call.patient or call.apart:
                other = " but the one that was asked" if call.apart else ""
                raise NoAnswerError(503, f"{self.name} has no replica{other}")
            # It restarts, or is on its way: the request has time, and would wait there as well.
            if not await self._replicas.changed(call.left_s):
                raise NoAnswerError(504, f"{self.name} had no replica in time")
            closed.clear()

    async def _ask(self, replica: Replica, body: Body, items: int, call: Call) -> Reply:
        url = f"http://{replica.address}{self._model.route_prefix}/infer"
        started = time.monotonic()
        headers = {
            **body.headers,
            **call.headers,
            DEADLINE: f"{call.left_s:.4f}",
            REQUEST_ID: call.request_id,
        }
        replica.ongoing += 1
        try:
            async with asyncio.timeout(call.left_s):
                status, answer_headers, answer = await self._client.post(
                    url, body, headers, replica.near
                )
                if status == UNREADABLE:
                    replica.near = False
                    status, answer_headers, answer = await self._client.post(
                        url, body, headers, replica.near
                    )
        except TimeoutError:
            _waited(replica, started)
            raise NoAnswerError(504, f"{self.name}: no answer in time") from None
        except asyncio.CancelledError:
            _waited(replica, started)
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
        said = error_message(answer) or f"status {status}"
        if status in (500, 502, 503):
            replica.failed(time.monotonic())
            raise _FailedError(503 if status == 503 else 502, said)
        if status in (408, 504):
            raise NoAnswerError(504, f"{self.name}: {said}")
        if status in (404, 401, 403, 429) or status >= 500:  # no fault of this request's content
            raise NoAnswerError(502, f"{self.name}: {said}")
        raise NoAnswerError(status, f"{self.name}: {said}")


def _waited(replica: Replica, started: float) -> None:
    now = time.monotonic()
    replica.waited(now - started, now)


class _FailedError(Exception):
    """One attempt that may be made again: to compute changes nothing."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Client:
    """The connections of one router; close it."""

    def __init__(self) -> None:
        self._bodies = Bodies()
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=4, use_dns_cache=False),
            timeout=aiohttp.ClientTimeout(),  # every request has a deadline of its own
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding"),
        )

    async def post(
        self, url: str, body: Body, headers: dict[str, str], near: bool
    ) -> tuple[int, CIMultiDictProxy[str], bytes]:
        """Status, headers and body of the answer.

        ``near``: whether the other end runs on this node; it then reads a large body from memory.
        """
        data = None
        if near and body.size >= LENT_FROM_BYTES:
            with contextlib.suppress(OSError):  # no memory, or no descriptor: then as it is
                headers, data = {**headers, LENT_BODY: body.lent(self._bodies)}, b""
        if data is None:
            data = body.joined
        async with self._session.post(URL(url, encoded=True), data=data, headers=headers) as answer:
            return answer.status, answer.headers, await answer.read()

    async def close(self) -> None:
        """End all connections."""
        await self._session.close()

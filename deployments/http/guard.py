"""Request guard: ASGI middleware between HAProxy and Serve's own code in every replica.

    HAProxy → uvicorn → RequestGuard → Serve (request id, queue, metrics) → deployment
                             │ ▲
      header not UTF-8 → 400 ┘ └ a plain-text error answer becomes JSON {"error": ...}
      deadline passed  → 408, or the answer of an application that enforces the deadline
      body too slow    → 408
      client gone      → the request is cancelled

Serve itself would watch the deadline and the connection with two tasks per request, and a queue
that buffers a body of any size. The guard disables both by Serve's headers, and replaces them by
one timer and one task. A request of 600 KB arrives 1 ms sooner, and a body is read no faster than
the deployment reads it.

Serve calls :func:`middlewares` once per replica, if the cluster's processes have the variable
``RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=deployments.http.guard:middlewares``. It wraps its ASGI
app in the result, outermost last, so that the guard is first to see a request and last to see its
answer; only the headers for pages of other origins (:mod:`deployments.http.cors`) come after it.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid

import orjson
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.http import auth, cors, headers
from deployments.http.auth import authenticator
from deployments.http.body_rate import BodyRate
from deployments.http.deadline import DEADLINE_KEY, Deadline
from deployments.http.request_timer import RequestTimer
from deployments.ray.replica_context import application_name
from deployments.ray.time_limits import MAX_REQUEST_TIMEOUT_S, max_request_timeout_s

_DEADLINE = headers.DEADLINE.encode()
_DISCONNECT = headers.DISCONNECT_DISABLED.encode()
_REQUEST_ID = headers.REQUEST_ID.encode()
_SERVE_CHECKS_DISABLED = ((_DEADLINE, b"0"), (_DISCONNECT, b"?1"))
"""Headers that disable Serve's own checks of a request's deadline and connection."""

_ERROR_TEXT_BYTES = 4096  # longer plain-text errors are truncated

_logger = logging.getLogger("ray.serve")  # writes to the replica's log


def middlewares() -> list[Middleware]:
    """Return the middlewares of a replica, for ``RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH``.

    Raises ConfigError if the environment names API keys that cannot be read.
    """
    guard = Middleware(RequestGuard, max_timeout_s=max_request_timeout_s())
    keys = authenticator()
    if keys is None:
        return [guard, *cors.middlewares()]
    return [auth.middleware(keys, application_name()), guard, *cors.middlewares()]


class RequestGuard:
    """ASGI middleware that checks requests and makes every error a JSON object.

    - A header whose name or value is not UTF-8 gets 400: Serve decodes some headers outside of
      its error handling, so it would answer a bare 500.
    - The deadline is ``x-request-timeout-seconds``, at most ``max_timeout_s``. Without the header,
      or with an invalid value, it is ``max_timeout_s``. At the deadline the request is cancelled
      and gets 408. An application that enforces the deadline itself has a grace period.
    - A body that arrives too slowly (:class:`BodyRate`) has its request cancelled, and gets 408.
    - A request whose client has disconnected is cancelled.
    - A request without an id (``x-request-id``) gets one, and every error here has it.
    - A plain-text error answer, as Serve writes them, becomes JSON ``{"error": ...}``. The text of
      a 5xx is replaced, since it may show a path or a traceback. Answers of other types are
      unchanged.
    """

    def __init__(self, app: ASGIApp, max_timeout_s: float = MAX_REQUEST_TIMEOUT_S) -> None:
        self._app = app
        self._max_timeout_s = max_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        timeout_s = self._max_timeout_s
        request_id = b""
        forwarded = []
        for header in scope["headers"]:
            name, value = header
            # isascii() alone decides for nearly every header.
            if not (value.isascii() and name.isascii()) and not _is_utf8(name, value):
                await _refuse(scope, send, name)
                return
            if name == _DEADLINE:
                timeout_s = self._clamped(value)
            elif name == _REQUEST_ID:
                request_id = request_id or value
            elif name != _DISCONNECT:
                forwarded.append(header)
        request_id = request_id or str(uuid.uuid4()).encode()
        forwarded.append((_REQUEST_ID, request_id))
        if scope["type"] != "http":
            scope["headers"] = forwarded  # Serve checks a WebSocket, with its own deadline
            await self._app(scope, receive, send)
            return
        scope["headers"] = [*forwarded, *_SERVE_CHECKS_DISABLED]
        started = time.monotonic()
        scope[DEADLINE_KEY] = deadline = Deadline(started + timeout_s)
        rate = BodyRate(started)
        answer = _Answer(send, request_id.decode(), timeout_s)
        client = _Client(receive, answer, rate)
        timeout = asyncio.timeout(None)
        timer = RequestTimer(timeout, deadline, rate)
        try:
            async with timeout:
                await self._app(scope, client, answer)
            if timeout.expired():  # Serve took the cancellation for one of its own and returned
                await answer.fail(408, rate, too_slow=timer.body_too_slow)
        except TimeoutError:
            await answer.fail(408, rate, too_slow=timer.body_too_slow)
        except asyncio.CancelledError:
            if not client.gone:
                raise
        except Exception:
            if answer.begun:
                raise  # the client can only be notified by closing the connection
            _logger.exception("Request %s failed outside of the deployment.", answer.request_id)
            await answer.fail(500, rate)
        finally:
            timer.cancel()
            client.stop_watching()

    def _clamped(self, value: bytes) -> float:
        try:
            timeout_s = float(value)
        except ValueError:
            return self._max_timeout_s
        # NaN fails both comparisons.
        return timeout_s if 0 < timeout_s <= self._max_timeout_s else self._max_timeout_s


class _Client:
    """``receive`` of one request; after the body, it watches for the client's disconnect."""

    __slots__ = ("_answer", "_rate", "_receive", "_request", "_watch", "gone")

    def __init__(self, receive: Receive, answer: _Answer, rate: BodyRate) -> None:
        self._receive = receive
        self._answer = answer
        self._rate = rate
        self._request = asyncio.current_task()
        self._watch: asyncio.Task[None] | None = None
        self.gone = False

    async def __call__(self) -> Message:
        self._rate.start_wait(time.monotonic())
        message = await self._receive()
        more = message.get("more_body", False)
        self._rate.add_chunk(time.monotonic(), len(message.get("body", b"")), more=more)
        if self._watch is None and not more:
            self._watch = asyncio.create_task(self._until_gone())
        return message

    async def _until_gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        # The server sends this message also after a complete answer: nothing is to be cancelled.
        if not self._answer.complete and self._request is not None:
            self.gone = True
            self._request.cancel()

    def stop_watching(self) -> None:
        """Stop watching: the request is over."""
        if self._watch is not None:
            self._watch.cancel()


class _Answer:
    """``send`` of one request: forwards answers, and holds back plain-text errors."""

    __slots__ = ("_held", "_send", "_text", "_timeout_s", "begun", "complete", "request_id")

    def __init__(self, send: Send, request_id: str, timeout_s: float) -> None:
        self._send = send
        self.request_id = request_id
        self._timeout_s = timeout_s
        self._held: Message | None = None
        self._text = b""
        self.begun = False
        self.complete = False

    async def __call__(self, message: Message) -> None:
        if not self.begun:
            if self._held is not None:
                await self._collect(message)
                return
            if message["status"] >= 400 and _is_plain(message):
                self._held = message
                return
            self.begun = True
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self.complete = True
        await self._send(message)

    async def _collect(self, message: Message) -> None:
        """Collect the body of the answer held back; send it as JSON once it is complete."""
        room = _ERROR_TEXT_BYTES - len(self._text)
        self._text += message.get("body", b"")[:room]
        if not message.get("more_body", False):
            await self._send_held()

    async def fail(self, status: int, rate: BodyRate, *, too_slow: bool = False) -> None:
        """Answer with an error, unless an answer has begun: then only the connection is closed.

        It is also closed after the error if the request's body is incomplete.
        """
        if not self.begun:
            closing = [] if rate.complete else [(b"connection", b"close")]
            self._held = {"type": "http.response.start", "status": status, "headers": closing}
            await self._send_held(rate.refusal(self.request_id) if too_slow else None)

    async def _send_held(self, sentence: str | None = None) -> None:
        held, self._held = self._held, None
        if held is None:
            raise RuntimeError("no answer is held back")
        self.begun = self.complete = True
        fields = MutableHeaders(raw=list(held.get("headers", ())))
        body = orjson.dumps({"error": sentence or self._sentence(held["status"])})
        fields["content-type"] = "application/json"
        fields["content-length"] = str(len(body))
        fields[headers.REQUEST_ID] = self.request_id
        del fields["transfer-encoding"]
        await self._send({**held, "headers": fields.raw})
        await self._send({"type": "http.response.body", "body": body})

    def _sentence(self, status: int) -> str:
        request = f"request {self.request_id}"
        if status >= 500:
            return f"the server failed to answer {request}; its log has the reason"
        if status == 408:
            return (
                f"{request} was not answered within its deadline of {self._timeout_s:g} s; "
                f"send less per request, or set a longer deadline with {headers.DEADLINE}"
            )
        return self._text.decode("utf-8", "replace").strip() or f"{request} was rejected"


def _is_utf8(name: bytes, value: bytes) -> bool:
    try:
        name.decode("utf-8")
        value.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _is_plain(message: Message) -> bool:
    """Whether an answer is plain text, or has no type: Serve's own 500 has none."""
    content_type = Headers(raw=message.get("headers", ())).get("content-type")
    return content_type is None or content_type.startswith("text/plain")


async def _refuse(scope: Scope, send: Send, name: bytes) -> None:
    """Answer 400 for a header that is not UTF-8; a WebSocket is closed before it opens."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1007})
        return
    shown = name.decode("utf-8", "backslashreplace")
    body = orjson.dumps({"error": f"header {shown!r} is not valid UTF-8; send it as UTF-8 text"})
    fields = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
    ]
    await send({"type": "http.response.start", "status": 400, "headers": fields})
    await send({"type": "http.response.body", "body": body})

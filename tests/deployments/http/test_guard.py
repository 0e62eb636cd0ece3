"""RequestGuard around a bare ASGI app: rejected, changed and unchanged requests and answers."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cluster.errors import ConfigError
from deployments.http import body_rate, deadline, headers
from deployments.http.guard import RequestGuard, middlewares
from deployments.ray.time_limits import MAX_REQUEST_TIMEOUT_S, MAX_REQUEST_TIMEOUT_VARIABLE

DEADLINE = headers.DEADLINE.encode()
ID: tuple[bytes, bytes] = (b"x-request-id", b"r-1")
Header = tuple[bytes, bytes]


@dataclass
class Exchange:
    """The scope that an app received, and the messages that the guard sent."""

    scope: Scope | None = None
    sent: list[Message] = field(default_factory=list)

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def headers(self) -> list[Header]:
        return list(self.sent[0]["headers"])

    @property
    def error(self) -> str:
        """Message of a JSON error, after a check that its headers fit its body."""
        (body,) = [message["body"] for message in self.sent[1:]]
        headers = dict(self.headers)
        assert len(headers) == len(self.headers), "a header was sent twice"
        assert headers[b"content-type"] == b"application/json"
        assert headers[b"content-length"] == str(len(body)).encode()
        document = json.loads(body)
        assert list(document) == ["error"]
        return str(document["error"])

    @property
    def deadlines(self) -> list[bytes]:
        assert self.scope is not None
        return [value for name, value in self.scope["headers"] if name == DEADLINE]


def exchange(
    app: ASGIApp, *headers: Header, kind: str = "http", max_timeout_s: float = 5
) -> Exchange:
    seen = Exchange()

    async def observed(scope: Scope, receive: Receive, send: Send) -> None:
        seen.scope = scope
        await app(scope, receive, send)

    async def send(message: Message) -> None:
        seen.sent.append(message)

    async def run() -> None:
        guard = RequestGuard(observed, max_timeout_s)
        await guard(scope, Connection(b"").receive, send)

    scope: Scope = {"type": kind, "headers": list(headers)}
    asyncio.run(run())
    return seen


def answer(status: int, headers: list[Header], *parts: bytes) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": status, "headers": headers})
        for number, part in enumerate(parts, 1):
            more = number < len(parts)
            await send({"type": "http.response.body", "body": part, "more_body": more})

    return app


OK = answer(200, [], b"")
TEXT: Header = (b"content-type", b"text/plain; charset=utf-8")


@pytest.mark.parametrize(
    ("header", "shown"),
    [
        ((b"x-request-id", b"\xff"), "x-request-id"),
        ((DEADLINE, b"\xc3"), headers.DEADLINE),
        ((b"x-n\xffte", b"1"), r"x-n\\xffte"),
    ],
)
def test_header_that_is_not_utf8_is_rejected_by_name(header: Header, shown: str) -> None:
    seen = exchange(OK, (b"host", b"x"), header)
    assert seen.scope is None  # the app never saw it
    assert seen.status == 400
    assert seen.error == f"header '{shown}' is not valid UTF-8; send it as UTF-8 text"


def test_utf8_header_beyond_ascii_is_forwarded() -> None:
    header = (b"x-note", "Zürich".encode())
    seen = exchange(OK, header)
    assert seen.status == 200
    assert seen.scope is not None
    assert header in seen.scope["headers"]


def test_websocket_with_broken_header_is_closed() -> None:
    seen = exchange(OK, (b"x-note", b"\xff"), kind="websocket")
    assert seen.scope is None
    assert seen.sent == [{"type": "websocket.close", "code": 1007}]


def test_request_keeps_its_id_or_gets_one() -> None:
    for ids, expected in (((ID,), ID[1]), (((ID[0], b""), ID), ID[1]), ((), None)):
        for kind in ("http", "websocket"):
            seen = exchange(OK, *ids, kind=kind)
            assert seen.scope is not None
            (request_id,) = [value for name, value in seen.scope["headers"] if name == ID[0]]
            assert request_id == expected or (expected is None and len(request_id) == 36)


async def never(scope: Scope, receive: Receive, send: Send) -> None:
    """An app that does not answer."""
    await receive()
    await asyncio.sleep(60)


@pytest.mark.parametrize(
    "requested", [b"0", b"-0.0", b"-3", b"nan", b"inf", b"-inf", b"5.001", b"1e400", b"", b"soon"]
)
def test_invalid_deadline_becomes_maximum(requested: bytes) -> None:
    seen = exchange(never, (DEADLINE, requested), max_timeout_s=0.05)
    assert seen.status == 408
    assert "within its deadline of 0.05 s" in seen.error


def test_missing_deadline_becomes_maximum() -> None:
    assert "deadline of 0.05 s" in exchange(never, max_timeout_s=0.05).error


def test_shorter_deadline_is_used() -> None:
    seen = exchange(never, (DEADLINE, b"0.02"), (b"x-request-id", b"r"), max_timeout_s=30)
    assert seen.status == 408
    assert "within its deadline of 0.02 s" in seen.error


def test_guard_disables_serves_own_checks() -> None:
    seen = exchange(
        OK, (DEADLINE, b"2"), (b"x-request-disconnect-disabled", b"?0"), (DEADLINE, b"9")
    )
    assert seen.scope is not None
    forwarded = [h for h in seen.scope["headers"] if h[0] not in (b"host", ID[0])]
    assert forwarded == [(DEADLINE, b"0"), (b"x-request-disconnect-disabled", b"?1")]


def test_websocket_cannot_set_deadline() -> None:
    assert exchange(OK, (DEADLINE, b"0"), kind="websocket").deadlines == []


def test_deadline_during_answer_ends_it() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await asyncio.sleep(60)

    seen = exchange(app, max_timeout_s=0.02)
    assert [message["type"] for message in seen.sent] == ["http.response.start"]


async def enforce(scope: Scope, receive: Receive, send: Send) -> float:
    """Act as an app that enforces the deadline; return the seconds until then."""
    request_deadline = scope[deadline.DEADLINE_KEY]
    request_deadline.enforced_by_application = True
    return float(request_deadline.at - time.monotonic())


def test_enforcing_application_answers_despite_busy_loop() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        decides_in_s = await enforce(scope, receive, send) - 0.01
        asyncio.get_running_loop().call_later(decides_in_s / 2, time.sleep, 0.2)
        await asyncio.sleep(decides_in_s)
        await asyncio.sleep(0.01)  # it has more than one step to make
        await answer(504, [(b"content-type", b"application/json")], b"{}")(scope, receive, send)

    assert exchange(app, max_timeout_s=0.05).status == 504


def test_enforcing_application_is_cancelled_after_grace(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(deadline, "ANSWER_GRACE_S", 0.05)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await enforce(scope, receive, send)
        await never(scope, receive, send)

    started = time.monotonic()
    seen = exchange(app, max_timeout_s=0.02)
    assert time.monotonic() - started >= 0.07
    assert seen.status == 408
    assert "within its deadline of 0.02 s" in seen.error


class Connection:
    """Client that sends its messages, then stays connected until ``left`` is set."""

    def __init__(self, *bodies: bytes) -> None:
        self._bodies = list(bodies)
        self.left = asyncio.Event()
        self.reads = 0

    async def receive(self) -> Message:
        if self._bodies:
            self.reads += 1
            body = self._bodies.pop(0)
            return {"type": "http.request", "body": body, "more_body": bool(self._bodies)}
        await self.left.wait()
        return {"type": "http.disconnect"}


@dataclass
class SlowBody:
    """Client that sends a part of its body every ``every_s`` seconds; 0: never."""

    every_s: float
    part: bytes = b"x"
    parts: int = 10**6

    async def receive(self) -> Message:
        if not self.parts:
            await asyncio.sleep(60)
        await asyncio.sleep(self.every_s or 60)
        self.parts -= 1
        return {"type": "http.request", "body": self.part, "more_body": self.parts > 0}


def slowly(client: SlowBody, app: ASGIApp, max_timeout_s: float = 5) -> Exchange:
    seen = Exchange()

    async def send(message: Message) -> None:
        seen.sent.append(message)

    async def run() -> None:
        scope: Scope = {"type": "http", "headers": [ID]}
        await RequestGuard(app, max_timeout_s)(scope, client.receive, send)

    asyncio.run(run())
    return seen


async def read_whole(scope: Scope, receive: Receive, send: Send) -> None:
    while (await receive())["more_body"]:
        pass
    await OK(scope, receive, send)


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set short timeouts: a pause of 0.4 s, after a queue 0.2 s, and a second per 1000 bytes."""
    monkeypatch.setattr(body_rate, "STALL_TIMEOUT_S", 0.4)
    monkeypatch.setattr(body_rate, "MIN_STALL_TIMEOUT_S", 0.2)
    monkeypatch.setattr(body_rate, "BODY_BYTES_PER_S", 1000)


@pytest.mark.parametrize("every_s", [0, 0.02], ids=["silent", "a byte now and then"])
def test_body_that_is_too_slow_gets_408(hurried: None, every_s: float) -> None:
    started = time.monotonic()
    seen = slowly(SlowBody(every_s), read_whole)
    assert 0.4 <= time.monotonic() - started < 10
    assert seen.status == 408
    assert seen.error.startswith("the body of request r-1 arrives too slowly, ")
    assert ID in seen.headers
    assert (b"connection", b"close") in seen.headers  # the rest of the body is not read


@pytest.mark.parametrize("every_s", [0, 0.02], ids=["silent", "a byte now and then"])
def test_body_timeout_is_shorter_after_queue(hurried: None, every_s: float) -> None:
    async def queued(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal dequeued
        await asyncio.sleep(0.5)
        dequeued = time.monotonic()
        await read_whole(scope, receive, send)

    dequeued = 0.0
    seen = slowly(SlowBody(every_s), queued)
    assert seen.status == 408
    assert time.monotonic() - dequeued >= 0.2


def test_body_timeout_shrinks_by_time_in_queue() -> None:
    least, most = body_rate.MIN_STALL_TIMEOUT_S, body_rate.STALL_TIMEOUT_S
    for queued_s, timeout_s in ((0.0, most), (most - least - 1, least + 1), (2 * most, least)):
        rate = body_rate.BodyRate(started=100.0)
        rate.start_wait(100.0 + queued_s)
        assert rate.remaining_s(100.0 + queued_s) == pytest.approx(timeout_s)


@pytest.mark.parametrize(
    "client",
    [SlowBody(0.05, b"x" * 100, 20), SlowBody(0.05, parts=3)],
    ids=["long and fast enough", "short and slow"],
)
def test_body_that_is_fast_enough_is_read(hurried: None, client: SlowBody) -> None:
    assert slowly(client, read_whole).status == 200


def test_body_rate_counts_only_time_of_waiting(hurried: None) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0.5)  # in Serve's queue
        await receive()
        await asyncio.sleep(0.5)
        await receive()
        await asyncio.sleep(0.5)  # inference with the whole body
        await OK(scope, receive, send)

    assert slowly(SlowBody(0.01, parts=2), app).status == 200


def test_blocked_loop_does_not_reject_body(hurried: None) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(0.01, time.sleep, 0.6)
        await receive()  # arrives after 0.03 s, while the loop is blocked
        await OK(scope, receive, send)

    assert slowly(SlowBody(0.03, parts=1), app).status == 200


def test_deadline_before_end_of_body_closes_connection(hurried: None) -> None:
    seen = slowly(SlowBody(0.01, b"x" * 100), read_whole, max_timeout_s=0.03)
    assert seen.status == 408
    assert "within its deadline of 0.03 s" in seen.error
    assert (b"connection", b"close") in seen.headers


def test_request_is_cancelled_when_client_disconnects() -> None:
    async def run() -> tuple[bool, int]:
        client, cancelled = Connection(b""), False

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            nonlocal cancelled
            await receive()
            client.left.set()
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                cancelled = True
                raise

        sent: list[Message] = []

        async def send(message: Message) -> None:
            sent.append(message)

        await RequestGuard(app, 30)({"type": "http", "headers": []}, client.receive, send)
        return cancelled, len(sent)

    assert asyncio.run(run()) == (True, 0)


def test_finished_request_is_not_cancelled_at_disconnect() -> None:
    async def run() -> bool:
        client, finished = Connection(b""), False

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            nonlocal finished
            await receive()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"x"})
            await asyncio.sleep(0.01)  # Serve still counts and logs
            finished = True

        async def send(message: Message) -> None:
            if message["type"] == "http.response.body":
                client.left.set()  # as uvicorn's receive does once the answer is complete

        await RequestGuard(app, 30)({"type": "http", "headers": []}, client.receive, send)
        return finished

    assert asyncio.run(run())


def test_body_is_read_no_faster_than_app_reads() -> None:
    async def run() -> int:
        client = Connection(*[b"x" * 1000] * 50)

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            await asyncio.sleep(0.02)  # time enough to receive more than it requested
            await answer(413, [], b"")(scope, receive, send)

        async def send(message: Message) -> None:
            pass

        await RequestGuard(app, 30)({"type": "http", "headers": []}, client.receive, send)
        return client.reads

    assert asyncio.run(run()) == 1


def test_plain_text_below_500_becomes_json_with_headers() -> None:
    headers = [TEXT, (b"retry-after", b"1"), (b"content-length", b"35")]
    seen = exchange(answer(429, headers, b"Request dropped ", b"due to backpressure"), ID)
    assert seen.status == 429
    assert seen.error == "Request dropped due to backpressure"
    assert dict(seen.headers)[b"retry-after"] == b"1"
    assert ID in seen.headers


@pytest.mark.parametrize("headers", [[TEXT], []])
def test_plain_text_of_a_5xx_is_replaced(headers: list[Header]) -> None:
    text = b'Traceback (most recent call last):\n  File "/secret/path.py"'
    seen = exchange(answer(500, headers, text), ID)
    assert seen.error == "the server failed to answer request r-1; its log has the reason"


def test_timeout_error_has_deadline_of_request() -> None:
    seen = exchange(answer(408, [TEXT], b"timed out"), (DEADLINE, b"0.5"))
    assert "within its deadline of 0.5 s" in seen.error


def test_long_error_text_is_truncated() -> None:
    assert len(exchange(answer(404, [TEXT], b"x" * 3000, b"y" * 3000, b"z")).error) == 4096


@pytest.mark.parametrize("status", [400, 500])
def test_json_errors_are_unchanged(status: int) -> None:
    start = {
        "type": "http.response.start",
        "status": status,
        "headers": [(b"content-type", b"application/json"), (b"content-length", b"2")],
    }
    body = {"type": "http.response.body", "body": b"{}"}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start)
        await send(body)

    sent = exchange(app).sent
    assert sent[0] is start
    assert sent[1] is body


def test_plain_text_that_is_no_error_is_unchanged() -> None:
    seen = exchange(answer(200, [TEXT], b"success"))
    assert [message.get("body") for message in seen.sent] == [None, b"success"]


def test_exception_becomes_500(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("/secret/path")

    seen = exchange(app)
    assert seen.status == 500
    request_id = dict(seen.headers)[b"x-request-id"].decode()
    assert seen.error == f"the server failed to answer request {request_id}; its log has the reason"
    assert "/secret/path" in caplog.text  # the log has the reason, as promised
    assert request_id in caplog.text


def test_exception_during_answer_closes_connection() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError("too late")

    with pytest.raises(RuntimeError, match="too late"):  # uvicorn closes when it sees this
        exchange(app)


def test_cancellation_after_answer_is_raised() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(408, [TEXT], b"late")(scope, receive, send)
        raise asyncio.CancelledError  # as Serve does after a deadline

    with pytest.raises(asyncio.CancelledError):
        exchange(app)


def test_maximum_deadline_comes_from_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(MAX_REQUEST_TIMEOUT_VARIABLE, raising=False)
    assert middlewares()[0].kwargs == {"max_timeout_s": MAX_REQUEST_TIMEOUT_S}
    monkeypatch.setenv(MAX_REQUEST_TIMEOUT_VARIABLE, "2.5")
    assert middlewares()[0].kwargs == {"max_timeout_s": 2.5}


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "a minute", ""])
def test_invalid_maximum_deadline_is_rejected(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MAX_REQUEST_TIMEOUT_VARIABLE, value)
    with pytest.raises(ConfigError, match=f"{MAX_REQUEST_TIMEOUT_VARIABLE}="):
        middlewares()

"""Hostile requests: each is refused with a 4xx that reveals nothing of the server.

One table, so that they can be counted. Mistakes of ordinary clients are in
``test_bad_requests.py``; stalled and disconnected clients are in ``test_hostile_clients.py``.
"""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from support.http_client import Raw, ask
from support.listening import assert_only_replicas_listen_beyond_loopback

JSON = {"Content-Type": "application/json"}
NAME_1K = "n" * 1024
PICKLE = b"cposix\nsystem\n(S'touch /tmp/headrace-was-here'\ntR."
SHOWS_THE_SERVER = re.compile(
    rb"Traceback|File \"|\.py\b|/tmp/|/usr/|/home/|site-packages|0x[0-9a-f]{8}"
)


@dataclass(frozen=True)
class Bad:
    """Request as bytes, with the expected status."""

    name: str
    sent: bytes
    status: int


def http(method: str, path: str, *headers: str, body: bytes = b"", length: bool = True) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: x", *headers]
    if length:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def infer(body: bytes, *headers: str) -> bytes:
    return http(
        "POST", "/v2/models/tiny/infer", "Content-Type: application/json", *headers, body=body
    )


def predict(body: bytes, content_type: str = "application/json") -> bytes:
    return http("POST", "/v2/models/tiny/predict", f"Content-Type: {content_type}", body=body)


def tensor(**fields: object) -> bytes:
    good = {"name": "input", "datatype": "FP32", "shape": [1, 1, 16, 16], "data": [0.0] * 256}
    return json.dumps({"inputs": [good | fields]}).encode()


def named(name: str, method: str = "GET", rest: str = "") -> bytes:
    return http(method, f"/v2/models/{name}{rest}")


GOOD = tensor()
INFER = "/v2/models/tiny/infer"

CASES = [
    # names
    Bad("a name that climbs", named("../../x"), 404),
    Bad("a name that climbs to the dashboard", named("../../api/serve/applications/"), 404),
    Bad("a name that climbs to a file", named("../../../../etc/passwd"), 404),
    Bad("dots, encoded", named("%2e%2e/%2e%2e/x"), 404),
    Bad("slashes, encoded", named("..%2f..%2fx", "POST", "/infer"), 404),
    Bad("dots, encoded twice", named("%252e%252e%252fx"), 404),
    Bad("a NUL, encoded", named("tiny%00", "POST", "/infer"), 404),
    Bad("a NUL", http("GET", "/v2/models/tiny\0"), 400),
    Bad("1 KB", named(NAME_1K), 404),
    Bad("1 KB to infer", named(NAME_1K, "POST", "/infer"), 404),
    Bad("a version of 1 KB", named(f"tiny/versions/{NAME_1K}"), 404),
    Bad("a version that climbs", named("tiny/versions/..%2f..%2fx"), 404),
    Bad("line feeds, encoded", named("tiny%0d%0aX-Evil:%201"), 404),
    Bad("bytes that are no UTF-8", named("%ff%fe"), 404),
    Bad("a URL for a name", named("http:%2f%2felsewhere.example%2fm", "POST", "/infer"), 404),
    Bad("an s3 URL for a name", named("s3:%2f%2fbucket%2fm"), 404),
    Bad("a proxy request", http("GET", "http://elsewhere.example/v2/models/tiny/x"), 400),
    # JSON
    Bad("5,000 levels", infer(b'{"inputs":' + b"[" * 5000 + b"]" * 5000 + b"}"), 400),
    Bad("50,000 open brackets", infer(b"[" * 50_000), 400),
    Bad("10^400", infer(GOOD.replace(b"0.0", b"1" + b"0" * 400, 1)), 400),
    Bad("1e400", infer(GOOD.replace(b"0.0", b"1e400", 1)), 400),
    Bad("10^400 items", infer(GOOD.replace(b"[1, 1", b"[1" + b"0" * 400 + b", 1")), 400),
    Bad("NaN", infer(GOOD.replace(b"0.0", b"NaN", 1)), 400),
    Bad(
        "duplicate keys, the last one bad",
        infer(
            GOOD.replace(
                b'"datatype"', b'"shape": [1, 1, 16, 16], "shape": [2], "datatype"'
            ).replace(b', "shape": [1, 1, 16, 16], "data"', b', "data"')
        ),
        400,
    ),
    Bad("half a surrogate", infer(tensor(name="\ud800")), 400),
    Bad("a pickle", infer(PICKLE), 400),
    Bad("a URL for a tensor", infer(tensor(data="http://elsewhere.example/x")), 400),
    Bad(
        "shared memory",
        infer(tensor(data=None, parameters={"shared_memory_region": "/etc/passwd"})),
        400,
    ),
    Bad(
        "missing binary bytes",
        infer(tensor(data=None, parameters={"binary_data_size": 1024})),
        400,
    ),
    Bad("a negative size", infer(tensor(data=None, parameters={"binary_data_size": -1})), 400),
    Bad(
        "a JSON length beyond the body",
        infer(GOOD, "Inference-Header-Content-Length: 99999999999999999999"),
        400,
    ),
    # images and texts
    Bad("an image by URL", predict(b'{"image": "http://elsewhere.example/a.png"}'), 400),
    Bad("an image by path", predict(b'{"image": "file:///etc/passwd"}'), 400),
    Bad(
        "an SVG that includes a file",
        predict(
            b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
            "image/svg+xml",
        ),
        415,
    ),
    Bad(
        "PostScript",
        predict(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "image/png"),
        400,
    ),
    # smuggling
    Bad(
        "Content-Length and Transfer-Encoding",
        http("POST", INFER, "Transfer-Encoding: chunked", body=b"0\r\n\r\nGET /v2 HTTP/1.1\r\n"),
        400,
    ),
    Bad("two lengths", http("POST", INFER, "Content-Length: 1", body=b"ab"), 400),
    Bad("a list of lengths", http("POST", INFER, "Content-Length: 2, 3", length=False), 400),
    Bad("a length with a sign", http("POST", INFER, "Content-Length: +2", length=False), 400),
    Bad("a negative length", http("POST", INFER, "Content-Length: -1", length=False), 400),
    Bad(
        "a space before the colon",
        http("POST", INFER, "Transfer-Encoding : chunked", body=b"0\r\n\r\n"),
        400,
    ),
    Bad(
        "an unknown encoding",
        http("POST", INFER, "Transfer-Encoding: xchunked", body=b"0\r\n\r\n"),
        400,
    ),
    Bad("a NUL in a header", http("GET", "/v2", "X-Note: a\0b"), 400),
    Bad(
        "a carriage return within a header",
        b"GET /v2 HTTP/1.1\r\nHost: x\r\nX: \rY: z\r\n\r\n",
        400,
    ),
    Bad(
        "chunks that end with bare line feeds",
        http("POST", INFER, "Transfer-Encoding: chunked", length=False) + b"2\n{}\n0\n\n",
        400,
    ),
    Bad(
        "chunked twice",
        http("POST", INFER, "Transfer-Encoding: chunked, chunked", length=False) + b"0\r\n\r\n",
        400,
    ),
    Bad("two hosts", http("GET", "/v2", "Host: y"), 400),
    Bad("HTTP/2 with prior knowledge", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9), 400),
    Bad(
        "an invalid chunk size",
        http("POST", INFER, "Transfer-Encoding: chunked", length=False) + b"zz\r\n\r\n",
        400,
    ),
    Bad(
        "a chunk size that overflows",
        http("POST", INFER, "Transfer-Encoding: chunked", length=False)
        + b"fffffffffffffffff\r\n\r\n",
        400,
    ),
    Bad("a header of 128 KB", http("GET", "/v2", "X-Large: " + "x" * 2**17), 400),
    Bad("5,000 headers", http("GET", "/v2", *(f"X-{n}: 1" for n in range(5000))), 400),
    Bad("a path of 128 KB", http("GET", "/v2/" + "x" * 2**17), 400),
    Bad("an invalid version of HTTP", b"GET /v2 HTTP/x.y\r\nHost: x\r\n\r\n", 400),
    Bad("a method of odd characters", b"G(E)T /v2 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    Bad("TRACE", http("TRACE", "/v2"), 405),
    Bad("CONNECT", http("CONNECT", "elsewhere.example:443"), 400),
    Bad("a damaged gzip", infer(b"\x1f\x8b" + bytes(100), "Content-Encoding: gzip"), 400),
    Bad("an unknown coding", infer(GOOD, "Content-Encoding: zstd"), 415),
    Bad("a body reference from a client", infer(b"", "x-headrace-body: /etc/passwd"), 412),
]


def test_only_replicas_listen_beyond_loopback_with_routes(served) -> None:
    """With a router and a model in two stages; tests/deployments checks each port."""
    assert len(assert_only_replicas_listen_beyond_loopback(served.cluster)) == 4


def test_hostile_requests_are_at_least_forty(capsys: pytest.CaptureFixture[str]) -> None:
    assert len({case.name for case in CASES}) == len(CASES)
    with capsys.disabled():
        print(f"\n{len(CASES)} bad requests", end="")
    assert len(CASES) >= 40


@pytest.fixture(autouse=True)
def continues(served):
    yield
    served.assert_answers()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_hostile_request_is_refused_and_reveals_nothing(served, case: Bad) -> None:
    pid = served.replica_pid("tiny")
    with Raw(served.port) as raw:
        raw.send(case.sent)
        answer = raw.answer()
    assert answer.status == case.status, answer
    assert not SHOWS_THE_SERVER.search(answer.body), answer
    assert served.replica_pid("tiny") == pid


def test_smuggled_request_is_not_answered(served) -> None:
    smuggled = b"0\r\n\r\nGET /v2/health/live HTTP/1.1\r\nHost: x\r\nX-Smuggled: 1\r\n\r\n"
    with Raw(served.port, timeout_s=3) as raw:
        raw.send(http("POST", INFER, "Transfer-Encoding: chunked", body=smuggled))
        received = b""
        while part := raw.socket.recv(65536):
            received += part
    assert received.count(b"HTTP/1.1 ") == 1
    assert b"connection: close" in received.lower()


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /v2 HTTP/1.1\nHost: x\n\n",
        b"GET /v2 HTTP/1.1\r\nHost: x\nX-Note: a\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\nHost: x\r\nX-Note: a\r\n Content-Length: 5\r\n\r\n",
    ],
    ids=["bare line feeds", "one bare line feed", "a header over two lines"],
)
def test_ambiguous_line_ends_are_normalized(served, sent: bytes) -> None:
    # HAProxy rewrites every request, so that replicas read one form only.
    with Raw(served.port) as raw:
        raw.send(sent)
        assert raw.answer().status == 200
        raw.send(http("GET", "/v2/health/live"))  # no rest of the first request remains
        assert raw.answer().json == {"live": True}


def test_upgrade_to_http2_is_ignored(served) -> None:
    upgrade = "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"
    with Raw(served.port) as raw:
        raw.send(http("GET", "/v2/health/live", *upgrade))
        assert raw.answer().json == {"live": True}


def test_last_of_duplicate_keys_counts(served) -> None:
    # One parser serves checks and computation: both use the last value.
    array = served.random_input(1)
    twice = json.dumps({"name": "input", "datatype": "FP32", "shape": [1, 1, 16, 16]})[:-1]
    data = json.dumps(array.ravel().tolist())
    body = f'{{"inputs": [{twice}, "data": [1], "data": {data}}}]}}'.encode()
    answer = ask(f"{served.tiny}/infer", body, JSON)
    assert answer.status == 200
    assert answer.json["outputs"][0]["data"] == pytest.approx(served.run(array).ravel(), rel=1e-5)


def one_byte_chunks(body: bytes) -> bytes:
    return b"".join(b"1\r\n" + bytes([byte]) + b"\r\n" for byte in body) + b"0\r\n\r\n"


def test_body_in_chunks_of_one_byte_is_accepted(served) -> None:
    array = served.random_input(1)
    body, headers = served.binary(array)
    with Raw(served.port) as raw:
        lines = [f"{name}: {value}" for name, value in headers.items()]
        raw.send(
            http("POST", INFER, *lines, "Transfer-Encoding: chunked", length=False),
            one_byte_chunks(body),
        )
        answer = raw.answer()
    assert served.logits(answer) == pytest.approx(served.run(array))


def test_oversized_body_in_chunks_of_one_byte_uses_no_memory(served) -> None:
    head = http("POST", "/v2/models/tight/infer", "Transfer-Encoding: chunked", length=False)
    with served.memory("tight") as memory, Raw(served.port) as raw:
        raw.send(head, one_byte_chunks(bytes(served.body_bytes + 1)))
        answer = raw.answer()
    assert answer.status == 413
    assert memory.grown_bytes < 20e6


@pytest.fixture
def bait() -> Iterator[socket.socket]:
    """Port of this machine that records connections: none is expected."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server


def test_url_in_a_request_causes_no_connection(served, bait: socket.socket) -> None:
    """A URL anywhere in a request is treated as an unknown name."""
    port = bait.getsockname()[1]
    for scheme in ("http://", "https://", "ftp://", "//"):
        url = f"{scheme}127.0.0.1:{port}/m"
        quoted = url.replace("/", "%2f")
        for path in (f"/v2/models/{quoted}", f"/v2/models/tiny/versions/{quoted}"):
            assert ask(f"{served.cluster.http}{path}").status == 404
        for fields in ({"name": url}, {"data": url}, {"data": None, "parameters": {"url": url}}):
            assert ask(f"{served.tiny}/infer", tensor(**fields), JSON).status == 400
        for field in ("image", "inputs", "text"):
            sent = json.dumps({field: url}).encode()
            assert ask(f"{served.tiny}/predict", sent, JSON).status == 400
        with Raw(served.port) as raw:
            raw.send(http("GET", url))
            assert raw.answer().status in (400, 404)
    with pytest.raises(BlockingIOError):
        bait.accept()
    socket.create_connection(("127.0.0.1", port)).close()
    bait.accept()  # a connection is detected

"""Paths of a model: its versions, and bodies that are compressed in both directions."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import zlib
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response
from support.asgi import ask

from cluster.protocol.statistics import Statistics
from cluster.tensors import TensorSpec
from deployments.http.body import read_body
from deployments.http.paths import Endpoint, ModelApp

ROOT = "/v2/models/m"
OUTPUT = TensorSpec(name="logits", datatype="FP32", shape=(-1, 2))
LIMIT = 100_000


def model(**changes: Any) -> ModelApp:
    """Return a model whose answer is the body of the request."""

    async def echo(request: Request, _: int | None = None) -> Response:
        return Response(bytes(await read_body(request, LIMIT)))

    fields: dict[str, Any] = {
        "name": "m",
        "version": "0123abcd",
        "platform": "p",
        "artifact": None,
        "inputs": (),
        "outputs": (OUTPUT,),
        "max_batch_size": 1,
        "infer": echo,
        "predict": echo,
        "ready": lambda: True,
        "failed": lambda outcome: None,
        "statistics": Statistics(),
    }
    return ModelApp(Endpoint(**{**fields, **changes}))


@pytest.mark.parametrize("version", ["", "/versions/0123abcd", "/versions/1"])
def test_every_path_has_both_versions(version: str) -> None:
    app, base = model(), ROOT + version
    for path in ("/infer", "/predict"):
        assert ask(app, base + path, b"x", root_path=ROOT).body == b"x"
    assert ask(app, base, root_path=ROOT).json["versions"] == ["0123abcd", "1"]
    assert ask(app, f"{base}/ready", root_path=ROOT).json == {"name": "m", "ready": True}
    assert ask(app, f"{base}/config", root_path=ROOT).json["name"] == "m"


@pytest.mark.parametrize("version", ["2", "0", "01", "0123", "x"])
@pytest.mark.parametrize("path", ["/infer", "/predict", ""])
def test_unknown_version_is_404(version: str, path: str) -> None:
    target = f"{ROOT}/versions/{version}{path}"
    answer = ask(model(), target, b"x" if path else None, root_path=ROOT)
    assert answer.status == 404
    assert answer.error == f"model m has no version '{version}', only '0123abcd' and '1'"


@pytest.mark.parametrize("path", ["/infer", "/predict"])
@pytest.mark.parametrize("size", [300, LIMIT])
def test_bodies_are_compressed_on_request(path: str, size: int) -> None:
    body = bytes(size)
    for coding, library in (("gzip", gzip), ("deflate", zlib)):
        headers = {"Content-Encoding": coding, "Accept-Encoding": coding}
        answer = ask(model(), ROOT + path, library.compress(body), headers, root_path=ROOT)
        assert answer.status == 200, answer
        assert answer.headers["content-encoding"] == coding
        assert answer.headers["content-length"] == str(len(answer.body))
        assert len(answer.body) < size / 5
        assert library.decompress(answer.body) == body


@pytest.mark.parametrize("accepted", [None, "identity", "gzip, deflate, br", "br", "gzip;q=0"])
def test_answer_is_plain_unless_one_coding_is_accepted(accepted: str | None) -> None:
    headers = {"Accept-Encoding": accepted} if accepted else {}
    answer = ask(model(), f"{ROOT}/infer", bytes(300), headers, root_path=ROOT)
    assert "content-encoding" not in answer.headers
    assert answer.body == bytes(300)


@pytest.mark.parametrize("path", ["/infer", "/versions/1/infer", "/predict"])
def test_errors_are_never_compressed(path: str) -> None:
    """Triton's client decodes them as text."""

    async def fails(request: Request, _: int | None = None) -> Response:
        return Response(b'{"error": "no replica"}', 503, media_type="application/json")

    app = model(infer=fails, predict=fails)
    answer = ask(app, f"{ROOT}{path}", b"{}", {"Accept-Encoding": "gzip"}, root_path=ROOT)
    assert (answer.status, answer.error) == (503, "no replica")
    assert "content-encoding" not in answer.headers


def test_limit_of_body_holds_after_decompression() -> None:
    for library, coding in ((gzip, "gzip"), (zlib, "deflate")):
        compressed = library.compress(bytes(LIMIT + 1))
        headers = {"Content-Encoding": coding}
        answer = ask(model(), f"{ROOT}/infer", compressed, headers, root_path=ROOT)
        assert answer.status == 413
        assert str(LIMIT) in answer.error


@pytest.mark.parametrize(
    "path", ["/trace/setting", "/generate", "/generate_stream", "/versions/1/generate"]
)
def test_extension_that_is_absent_says_what_to_do(path: str) -> None:
    for method in ("GET", "POST"):
        answer = ask(model(), ROOT + path, b"{}", method=method, root_path=ROOT)
        assert answer.status == 404
        assert "tracing_config" in answer.error or "/infer" in answer.error


# ------------------------------------------------------------------ statistics


def failures(app: ModelApp) -> tuple[int, int]:
    """Return count and nanoseconds of failed requests."""
    (entry,) = ask(app, f"{ROOT}/stats", root_path=ROOT).json["model_stats"]
    fail = entry["inference_stats"]["fail"]
    return fail["count"], fail["ns"]


def test_refused_and_failed_inferences_are_counted() -> None:
    app = model()
    assert failures(app) == (0, 0)
    big = bytes(LIMIT + 1)
    for count, path in enumerate(("/infer", "/versions/1/infer", "/predict"), 1):
        assert ask(app, ROOT + path, big, root_path=ROOT).status == 413
        assert failures(app)[0] == count
    assert ask(app, f"{ROOT}/versions/9/infer", b"x", root_path=ROOT).status == 404
    assert ask(app, f"{ROOT}/nothing", root_path=ROOT).status == 404
    assert failures(app)[0] == 3  # no inference was requested of this version


def test_time_of_failure_is_measured() -> None:
    async def fails(request: Request) -> Response:
        await asyncio.sleep(0.05)
        return Response(status_code=504)

    app = model(infer=fails)
    assert ask(app, f"{ROOT}/infer", b"x", root_path=ROOT).status == 504
    count, ns = failures(app)
    assert count == 1
    assert ns >= 50_000_000


def test_cancelled_request_is_counted() -> None:
    async def waits(request: Request) -> Response:
        await asyncio.sleep(60)
        return Response()

    app = model(infer=waits)

    async def cancel() -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.05):
                await app(scope(), None, None)  # type: ignore[arg-type]

    def scope() -> dict[str, Any]:
        path = f"{ROOT}/infer"
        return {"type": "http", "method": "POST", "path": path, "root_path": ROOT, "headers": []}

    asyncio.run(cancel())
    assert failures(app)[0] == 1

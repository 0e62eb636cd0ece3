"""CORS as browsers apply it: preflights, answers, and origins that are not named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.serve._private.http_util import _apply_middlewares
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send
from support.asgi import ask
from support.http_client import Answer

from cluster.config.base import parse
from cluster.config.serving import CatalogArgs
from cluster.errors import ConfigError
from deployments.http import cors
from deployments.http.auth import ApiKeys, Authenticator, any_client
from deployments.http.cors import Cors
from deployments.http.guard import middlewares
from deployments.http.keys import FILE_VARIABLE, VARIABLE, configured
from deployments.http.quotas import Quotas

PAGE, OTHER = "https://app.example", "https://evil.example"
KEY = "key-of-the-page-0123"
INFER = "/v2/models/m/infer"
PREFLIGHT = {
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type",
}


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer as a model does, with an error for GET."""
    await Request(scope, receive).body()
    failed = scope["method"] == "GET"
    answer = Response(b'{"error": "x"}' if failed else b"{}", 404 if failed else 200)
    answer.headers["Server-Timing"] = "compute;dur=1"
    await answer(scope, receive, send)


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> ASGIApp:
    """Return the application in a process whose config names :data:`PAGE`."""
    for variable in (FILE_VARIABLE, VARIABLE):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(cors._Named, "origins", frozenset())
    cors.allow([PAGE])
    return _apply_middlewares(application, middlewares())


@pytest.fixture
def closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ASGIApp:
    """Return the same on a server with API keys."""
    file = tmp_path / "keys.yaml"
    file.write_text(yaml.safe_dump({"clients": [{"name": "page", "key": KEY}]}))
    monkeypatch.setenv(FILE_VARIABLE, str(file))
    keys = configured()
    assert keys is not None
    authenticator = Authenticator(keys, Quotas(tmp_path / "quotas"), "r")
    return Cors(ApiKeys(application, authenticator, any_client), [PAGE])


def cors_headers(answer: Answer) -> dict[str, str]:
    return {k: v for k, v in answer.headers.items() if k.startswith("access-control-")}


def tokens(value: str) -> set[str]:
    return {token.strip().lower() for token in value.split(",")}


def test_preflight_of_named_origin_is_answered(app: ASGIApp) -> None:
    answer = ask(app, INFER, method="OPTIONS", headers={"Origin": PAGE, **PREFLIGHT})
    assert (answer.status, answer.body) == (204, b"")
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert "POST" in answer.headers["access-control-allow-methods"]
    # What a page's script sends to a model: the Fetch standard requires each by name.
    allowed = tokens(answer.headers["access-control-allow-headers"])
    assert {
        "authorization",
        "content-type",
        "content-encoding",
        "inference-header-content-length",
        "x-api-key",
        "x-request-timeout-seconds",
        "x-priority",
        "x-request-id",
    } <= allowed
    assert "*" not in allowed
    assert int(answer.headers["access-control-max-age"]) > 0
    assert "origin" in tokens(answer.headers["vary"])


def test_answer_of_named_origin_can_be_read(app: ASGIApp) -> None:
    answer = ask(app, INFER, b"{}", {"Origin": PAGE})
    assert (answer.status, answer.body) == (200, b"{}")
    assert answer.headers["access-control-allow-origin"] == PAGE
    exposed = tokens(answer.headers["access-control-expose-headers"])
    assert {"server-timing", "inference-header-content-length", "x-request-id"} <= exposed
    assert tokens(answer.headers["vary"]) == {"origin"}


def test_errors_can_be_read_too(app: ASGIApp) -> None:
    """Errors of the application, and of the guard behind this middleware, are readable."""
    for path, headers in (("/v2/models/m", {}), ("/v2/models/m", {"X-Note": "\xff"})):
        answer = ask(app, path, None, {"Origin": PAGE, **headers})
        assert answer.status in (400, 404)
        assert answer.headers["access-control-allow-origin"] == PAGE


def test_credentials_are_never_allowed(app: ASGIApp) -> None:
    for method, headers in (("POST", {}), ("OPTIONS", PREFLIGHT)):
        answer = ask(app, INFER, b"", {"Origin": PAGE, **headers}, method=method)
        assert "access-control-allow-credentials" not in answer.headers
        assert answer.headers["access-control-allow-origin"] != "*"


@pytest.mark.parametrize(
    "origin", [OTHER, "null", "https://app.example.evil.example", "http://app.example", f"{PAGE}:1"]
)
def test_other_origins_get_no_cors_headers(app: ASGIApp, origin: str) -> None:
    for method, headers in (("POST", {}), ("GET", {}), ("OPTIONS", PREFLIGHT)):
        answer = ask(app, INFER, b"", {"Origin": origin, **headers}, method=method)
        assert cors_headers(answer) == {}
        assert "origin" in tokens(answer.headers["vary"])  # a cache must not give it to others
    assert answer.status == 200  # the application's own answer to OPTIONS


def test_requests_of_other_clients_are_unchanged(app: ASGIApp) -> None:
    plain = ask(app, INFER, b"{}")
    assert "vary" not in plain.headers
    assert cors_headers(plain) == {}
    assert tokens(ask(app, "/v2/models/m").headers["vary"]) == {"origin"}


def test_preflight_needs_no_key_and_request_does(closed: ASGIApp) -> None:
    preflight = ask(closed, INFER, method="OPTIONS", headers={"Origin": PAGE, **PREFLIGHT})
    assert (preflight.status, preflight.body) == (204, b"")
    for headers, status in (({}, 401), ({"Authorization": f"Bearer {KEY}"}, 200)):
        answer = ask(closed, INFER, b"{}", {"Origin": PAGE, **headers})
        assert answer.status == status
        assert answer.headers["access-control-allow-origin"] == PAGE
    # OPTIONS that is no preflight of a named origin needs a key like any request.
    for headers in ({"Origin": PAGE}, {"Origin": OTHER, **PREFLIGHT}, PREFLIGHT):
        refused = ask(closed, INFER, method="OPTIONS", headers=headers)
        assert refused.status == 401
        assert ("access-control-allow-origin" in refused.headers) == (headers == {"Origin": PAGE})


def test_without_named_origins_there_is_no_middleware(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cors._Named, "origins", frozenset())
    assert cors.middlewares() == []


# ------------------------------------------------------------------ the config


@pytest.mark.parametrize(
    "origin",
    [
        "https://app.example",
        "http://localhost:3000",
        "http://127.0.0.1:8080",
        "http://[::1]:8000",
        "chrome-extension://abcdefgh",
    ],
)
def test_config_accepts_origin(origin: str) -> None:
    assert parse({"cors_origins": [origin]}, CatalogArgs, "args").cors_origins == (origin,)


@pytest.mark.parametrize(
    ("origin", "message"),
    [
        ("*", "would let any page use the models; name each origin"),
        ("null", "would let any page use the models; name each origin"),
        ("https://app.example/", "without a path or a slash at its end"),
        ("https://app.example/page", "an origin is a scheme, a host and perhaps a port"),
        ("https://App.example", "in lower case"),
        ("https://*.example", "an origin is a scheme"),
        ("app.example", "an origin is a scheme"),
        ("https://app.example:443", "browsers omit the default port; write https://app.example"),
        ("http://app.example:80", "browsers omit the default port; write http://app.example"),
        ("https://user@app.example", "an origin is a scheme"),
        ("https://app.example\r\nX: y", "an origin is a scheme"),
        ("", "an origin is a scheme"),
    ],
)
def test_config_refuses_origin(origin: str, message: str) -> None:
    fields: dict[str, Any] = {"cors_origins": [origin]}
    with pytest.raises(ConfigError, match=rf"args: cors_origins\[0\]: .*{message}"):
        parse(fields, CatalogArgs, "args")

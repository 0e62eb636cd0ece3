"""Index of models: for Triton's clients, by state, and for each key its own models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from fastapi import FastAPI
from starlette.types import ASGIApp
from support.asgi import ask

from deployments.http.auth import ApiKeys, Authenticator, any_client
from deployments.http.catalog import ModelStatus, add_server_paths
from deployments.http.errors import answer_errors
from deployments.http.keys import FILE_VARIABLE, configured
from deployments.http.quotas import Quotas

MODELS = [
    ModelStatus("cats", "READY"),
    ModelStatus("digits", "LOADING", "its deployment is in progress"),
    ModelStatus("dogs", "READY"),
]
KEY = "key-of-the-digits-client"
INDEX = "/v2/repository/index"


def catalog() -> FastAPI:
    async def served() -> list[ModelStatus]:
        return MODELS

    app = FastAPI()
    add_server_paths(app, "/v2", served)
    answer_errors(app, lambda outcome: None)
    return app


@pytest.fixture
def closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ASGIApp:
    """Return the catalog of a server whose one key opens ``digits`` and ``dogs``."""
    file = tmp_path / "keys.yaml"
    clients = [{"name": "one", "key": KEY, "models": ["d*"], "requests_per_s": 1, "burst": 1}]
    file.write_text(yaml.safe_dump({"clients": clients}))
    monkeypatch.setenv(FILE_VARIABLE, str(file))
    keys = configured()
    assert keys is not None
    return ApiKeys(catalog(), Authenticator(keys, Quotas(tmp_path / "quotas"), "r"), any_client)


def body(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def test_index_has_tritons_fields() -> None:
    answer = ask(catalog(), INDEX, b"")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    assert answer.json == [
        {"name": "cats", "version": "1", "state": "READY", "reason": ""},
        {
            "name": "digits",
            "version": "1",
            "state": "LOADING",
            "reason": "its deployment is in progress",
        },
        {"name": "dogs", "version": "1", "state": "READY", "reason": ""},
    ]


def test_index_of_ready_models_omits_the_others() -> None:
    names = [model["name"] for model in ask(catalog(), INDEX, body(ready=True)).json]
    assert names == ["cats", "dogs"]
    for every in (body(ready=False), body(ready=None), body(), b""):
        assert len(ask(catalog(), INDEX, every).json) == 3


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        (b"[]", 400, "expected a JSON object"),
        (b"{", 400, "cannot be parsed"),
        (body(ready="yes"), 400, "ready of the request must be true or false, got 'yes'"),
        (body(ready=True, x="x" * 5000), 413, "4096"),
    ],
)
def test_wrong_request_for_index_is_refused(content: bytes, status: int, message: str) -> None:
    answer = ask(catalog(), INDEX, content)
    assert answer.status == status
    assert message in answer.error


def test_key_lists_its_own_models_alone(closed: ASGIApp) -> None:
    key = {"x-api-key": KEY}
    for _ in range(3):  # an index computes nothing, so it does not count against the quota
        listed = [model["name"] for model in ask(closed, INDEX, b"", key).json]
        assert listed == ["digits", "dogs"]
    assert [m["name"] for m in ask(closed, "/v2/models", None, key).json["models"]] == listed
    unknown = ask(closed, "/v2/models/dig/infer", b"", key)
    assert (unknown.status, unknown.error) == (
        404,
        "no model 'dig' is served here; served: digits, dogs",
    )
    for path in (INDEX, "/v2/models"):
        assert ask(closed, path, b"" if path == INDEX else None).status == 401


@pytest.mark.parametrize("name", ["cats", "nobody"])
def test_key_does_not_learn_whether_others_exist(closed: ASGIApp, name: str) -> None:
    for method in ("GET", "POST"):
        path = f"/v2/models/{name}/infer"
        answer = ask(closed, path, b"", {"x-api-key": KEY}, method=method)
        assert (answer.status, answer.error) == (403, f"the key of one gives no access to {name}")


@pytest.mark.parametrize(
    ("path", "method", "message"),
    [
        ("/v2/models/stats", "GET", "use GET /v2/models/NAME/stats"),
        ("/v2/repository/models/cats/load", "POST", "run `headrace up CONFIG`"),
        ("/v2/repository/models/cats/unload", "POST", "remove the model's application"),
        ("/v2/trace/setting", "GET", "tracing_config of the Serve config"),
        ("/v2/logging", "POST", "logging_config of the Serve config"),
        ("/v2/systemsharedmemory/status", "GET", "send and request tensors as binary data"),
        ("/v2/systemsharedmemory/region/r/register", "POST", "shared memory is not supported"),
        ("/v2/cudasharedmemory/unregister", "POST", "shared memory is not supported"),
    ],
)
def test_extension_that_is_absent_says_what_to_do(path: str, method: str, message: str) -> None:
    answer = ask(catalog(), path, b"{}", method=method)
    assert answer.status == 404
    assert message in answer.error

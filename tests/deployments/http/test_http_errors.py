"""Error answers of a replica, with all middlewares that Serve puts around its application."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import dataclass
from typing import Any

import pytest
from fastapi import FastAPI
from ray.serve._private.http_util import _apply_middlewares
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cluster.errors import GroupLostError, HeadraceError, ProgramError, RequestError
from cluster.protocol.statistics import Statistics
from cluster.tensors import TensorSpec
from deployments.http import keys
from deployments.http.catalog import ModelStatus, add_server_paths
from deployments.http.errors import INTERNAL, LOST, answer_errors
from deployments.http.guard import middlewares
from deployments.http.paths import AtPrefix, Endpoint, ModelApp

SECRET = "/secret/path.py"
MODEL = "/v2/models/m"


def model(error: Exception) -> ModelApp:
    """Return a model whose every inference fails."""

    async def fails(*_: object) -> Response:
        raise error

    return ModelApp(
        Endpoint(
            name="m",
            version="1",
            platform="p",
            artifact=None,
            inputs=(),
            outputs=(TensorSpec(name="logits", datatype="FP32", shape=(-1, 2)),),
            max_batch_size=1,
            infer=fails,
            predict=fails,
            ready=lambda: True,
            failed=lambda outcome: None,
            statistics=Statistics(),
        )
    )


def catalog() -> FastAPI:
    async def served() -> list[ModelStatus]:
        return [ModelStatus("m", "LOADING", "its deployment is in progress")]

    app = FastAPI()
    add_server_paths(app, "/v2", served)
    answer_errors(app, lambda outcome: None)
    return app


async def crash(scope: Scope, receive: Receive, send: Send) -> None:
    await Request(scope, receive).body()
    raise RuntimeError(SECRET)


@dataclass
class Sent:
    status: int
    headers: list[tuple[str, str]]
    body: dict[str, Any]

    @property
    def ids(self) -> list[str]:
        return [value for name, value in self.headers if name == "x-request-id"]


def ask(
    app: ASGIApp, monkeypatch: pytest.MonkeyPatch, path: str, request_id: str | None = None
) -> Sent:
    """Send a POST as HAProxy does, through the middlewares in front of ``app``."""
    for variable in (keys.VARIABLE, keys.FILE_VARIABLE):
        monkeypatch.delenv(variable, raising=False)
    sent: list[Message] = []

    async def receive() -> Message:
        if sent:
            await asyncio.sleep(60)
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    ids = [(b"x-request-id", request_id.encode())] if request_id else []
    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "query_string": b"",
        "headers": ids,
        "root_path": MODEL if isinstance(app, ModelApp) else "",
    }
    with contextlib.suppress(OSError):  # Starlette answers foreign errors and raises them, too
        asyncio.run(_apply_middlewares(app, middlewares())(scope, receive, send))
    headers = [(name.decode(), value.decode()) for name, value in sent[0]["headers"]]
    return Sent(sent[0]["status"], headers, json.loads(sent[1]["body"]))


FAILURES: dict[str, tuple[Any, str, int]] = {
    "a program": (lambda: model(ProgramError(SECRET)), f"{MODEL}/infer", 500),
    "a program, by its version": (
        lambda: model(ProgramError(SECRET)),
        f"{MODEL}/versions/1/infer",
        500,
    ),
    "a prediction": (lambda: model(OSError(SECRET)), f"{MODEL}/predict", 500),
    "whatever of ours": (lambda: model(HeadraceError(SECRET)), f"{MODEL}/infer", 500),
    "a lost shard": (lambda: model(GroupLostError(SECRET)), f"{MODEL}/infer", 503),
    "a model that is not ready": (catalog, "/v2/models/m/infer", 503),
    "Serve": (lambda: crash, "/anything", 500),
}


@pytest.mark.parametrize("sent_id", ["r-17", None])
@pytest.mark.parametrize("failure", FAILURES)
def test_5xx_has_request_id_and_no_internals(
    monkeypatch: pytest.MonkeyPatch, failure: str, sent_id: str | None
) -> None:
    make, path, status = FAILURES[failure]
    sent = ask(make(), monkeypatch, path, sent_id)
    assert sent.status == status
    (request_id,) = sent.ids
    assert request_id == sent_id or (sent_id is None and len(request_id) == 36)
    assert list(sent.body) == ["error"]
    assert SECRET not in str(sent)
    assert sent.body["error"] in (
        INTERNAL,
        LOST,
        "model 'm' is not ready: its deployment is in progress or has failed",
        f"the server failed to answer request {request_id}; its log has the reason",
    )


def test_4xx_has_message_of_error(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = ask(model(RequestError("input 'x' is given twice")), monkeypatch, f"{MODEL}/infer")
    assert (sent.status, sent.body) == (400, {"error": "input 'x' is given twice"})
    assert len(sent.ids) == 1


PREFIXES = [("/v2/models/m", 200), ("/api/v2/models/m", 200), ("/m", 404), ("", 404)]


@pytest.mark.parametrize(("root_path", "status"), PREFIXES)
def test_model_answers_at_its_own_prefix_alone(root_path: str, status: int) -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.request"}

    path = f"{root_path}/ready"
    scope = {"type": "http", "method": "GET", "path": path, "root_path": root_path, "headers": []}
    scope["query_string"] = b""
    app = AtPrefix(model(RuntimeError("not called")), "/v2/models/m")
    asyncio.run(app(scope, receive, send))
    assert sent[0]["status"] == status
    if status == 404:
        assert "expected '/v2/models/m'" in json.loads(sent[1]["body"])["error"]

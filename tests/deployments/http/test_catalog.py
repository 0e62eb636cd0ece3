"""Server-wide paths for a model that is deployed but does not run."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from ray import serve
from ray.serve.schema import ApplicationStatusOverview, DeploymentStatusOverview, ServeStatus

from deployments.http.catalog import Catalog
from deployments.ray.names import MODEL_DEPLOYMENT_PREFIX


def status(application: str) -> ServeStatus:
    deployment = DeploymentStatusOverview(
        status="UPDATING", status_trigger="CONFIG_UPDATE_STARTED", replica_states={}, message=""
    )
    overview = ApplicationStatusOverview(
        status=application,
        message="",
        last_deployed_time_s=0,
        deployments={MODEL_DEPLOYMENT_PREFIX + "digits": deployment},
    )
    return ServeStatus(applications={"any": overview})


def ask(path: str, method: str = "POST") -> tuple[int, dict[str, Any]]:
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "root_path": "",
        "query_string": b"",
        "headers": [],
    }
    asyncio.run(Catalog().__serve_build_asgi_app__()(scope, receive, send))
    return sent[0]["status"], json.loads(sent[1]["body"])


@pytest.mark.parametrize("application", ["DEPLOYING", "DEPLOY_FAILED"])
@pytest.mark.parametrize("path", ["/models/digits", "/models/digits/infer"])
def test_path_of_model_that_is_not_ready_is_503(
    monkeypatch: pytest.MonkeyPatch, application: str, path: str
) -> None:
    monkeypatch.setattr(serve, "status", lambda: status(application))
    code, body = ask(path)
    assert code == 503
    assert "model 'digits' is not ready" in body["error"]
    code, body = ask(path.replace("digits", "digit"))
    assert code == 404
    assert body["error"] == "no model 'digit' is served here; served: digits"


@pytest.mark.parametrize(("application", "ready"), [("DEPLOYING", False), ("RUNNING", True)])
def test_readiness_names_no_model(
    monkeypatch: pytest.MonkeyPatch, application: str, ready: bool
) -> None:
    monkeypatch.setattr(serve, "status", lambda: status(application))
    assert ask("/health/ready", "GET") == (200 if ready else 503, {"ready": ready})
    assert ask("/models", "GET")[1] == {"models": [{"name": "digits", "ready": ready}]}

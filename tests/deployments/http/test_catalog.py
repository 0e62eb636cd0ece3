"""Server-wide paths for a model that is deployed but does not run."""

from __future__ import annotations

from typing import Any

import pytest
from ray import serve
from ray.serve.schema import ApplicationStatusOverview, DeploymentStatusOverview, ServeStatus
from support import asgi

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


def ask(path: str, method: str = "POST") -> tuple[int, Any]:
    app = Catalog().__serve_build_asgi_app__()
    answer = asgi.ask(app, path, b"" if method == "POST" else None, method=method)
    return answer.status, answer.json


@pytest.mark.parametrize(
    ("application", "state"),
    [
        ("RUNNING", "READY"),
        ("DEPLOYING", "LOADING"),
        ("DELETING", "UNLOADING"),
        ("DEPLOY_FAILED", "UNAVAILABLE"),
        ("UNHEALTHY", "UNAVAILABLE"),
    ],
)
def test_index_has_state_of_application(
    monkeypatch: pytest.MonkeyPatch, application: str, state: str
) -> None:
    monkeypatch.setattr(serve, "status", lambda: status(application))
    code, (model,) = ask("/repository/index")
    assert (code, model["name"], model["state"]) == (200, "digits", state)
    assert bool(model["reason"]) == (state != "READY")


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

"""Server-wide paths of the Open Inference Protocol, for all models behind the port.

GET /v2                server metadata          GET /v2/health/live    the server runs
GET /v2/models         the models by name       GET /v2/health/ready   every model runs
POST /v2/repository/index   the same, as Triton lists them
a model's paths        503: without an application that answers, the model is not ready
any other path         404 with the names of the models

With API keys, a client sees the models and routes that its key opens.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from fastapi import FastAPI, Request
from ray import serve
from ray.serve.schema import ApplicationStatus, ServeStatus
from starlette.responses import Response
from starlette.types import ASGIApp

from cluster import __version__
from cluster.errors import UnknownModelError
from cluster.protocol.metadata import (
    error_body,
    repository_index,
    requires_ready,
    server_metadata,
)
from deployments.http import auth, cors, openapi
from deployments.http.body import read_body
from deployments.http.errors import answer_errors, json_response
from deployments.http.paths import BarePrefix
from deployments.http.unsupported import OF_SERVER, add_unsupported
from deployments.ray.names import MODEL_DEPLOYMENT_PREFIX

STATUS_AGE_S = 1.0
"""Lifetime of a cached status of Serve, in seconds, so that probes do not load the controller."""


INDEX_BYTES = 2**12
"""Largest body of a request for the index."""


@dataclass(frozen=True)
class ModelStatus:
    """Model or route behind the port."""

    name: str
    state: str
    """One of Triton's states: READY, LOADING, UNLOADING, UNAVAILABLE."""

    reason: str = ""
    """Reason for any state but READY."""

    @property
    def ready(self) -> bool:
        """Whether it answers."""
        return self.state == READY


READY = "READY"

_STATES = {
    ApplicationStatus.RUNNING: (READY, ""),
    ApplicationStatus.DEPLOYING: ("LOADING", "its deployment is in progress"),
    ApplicationStatus.DELETING: ("UNLOADING", "it is being removed"),
}
_UNAVAILABLE = ("UNAVAILABLE", "its deployment has failed, or has no healthy replica")


def model_statuses(status: ServeStatus) -> list[ModelStatus]:
    """Return the models among the applications of a Serve cluster, sorted by name."""
    models = []
    for application in status.applications.values():
        state, reason = _STATES.get(application.status, _UNAVAILABLE)
        models += [
            ModelStatus(name.removeprefix(MODEL_DEPLOYMENT_PREFIX), state, reason)
            for name in application.deployments
            if name.startswith(MODEL_DEPLOYMENT_PREFIX)
        ]
    return sorted(models, key=lambda model: model.name)


ListModels = Callable[[], Awaitable[list[ModelStatus]]]
"""Returns the models behind the port now."""


def add_server_paths(app: FastAPI, prefix: str, served: ListModels) -> None:
    """Add the server-wide paths below ``prefix``; the last one answers for unknown models."""

    @app.get(prefix or "/", summary="Server metadata")
    async def server() -> Response:
        return json_response(server_metadata("headrace", __version__))

    @app.get(f"{prefix}/health/live", summary="Whether the server runs")
    async def live() -> Response:
        return json_response({"live": True})

    @app.get(f"{prefix}/health/ready", summary="Whether every model answers")
    async def ready() -> Response:
        # Without names, because it needs no key. The index lists the models that are not ready.
        is_ready = all(model.ready for model in await served())
        return json_response({"ready": is_ready}, 200 if is_ready else 503)

    async def visible(request: Request) -> list[ModelStatus]:
        """Return the models that the client's key opens."""
        models = await served()
        return [model for model in models if auth.foreign_to(request.scope, model.name) is None]

    @app.get(f"{prefix}/models", summary="The models behind this port")
    async def index(request: Request) -> Response:
        models = [{"name": model.name, "ready": model.ready} for model in await visible(request)]
        return json_response({"models": models})

    @app.post(f"{prefix}/repository/index", summary="Triton's index", openapi_extra=openapi.INDEX)
    async def repository(request: Request) -> Response:
        body = bytes(await read_body(request, INDEX_BYTES))
        ready_only = bool(body) and requires_ready(body)
        models = [model for model in await visible(request) if model.ready or not ready_only]
        states = {model.name: (model.state, model.reason) for model in models}
        return json_response(repository_index(states))

    add_unsupported(app, prefix, OF_SERVER)
    other = f"{prefix}/models/{{name}}"

    @app.api_route(other, methods=["GET", "POST"], include_in_schema=False)
    @app.api_route(other + "/{_:path}", methods=["GET", "POST"], include_in_schema=False)
    async def unknown(name: str, request: Request) -> Response:
        # The application of a running model has a longer prefix and gets its requests.
        if (refusal := auth.foreign_to(request.scope, name)) is not None:
            return json_response(error_body(refusal.message), refusal.status)
        models = [model.name for model in await visible(request)]
        if name in models:  # no exception: the message of a 5xx error would be replaced
            message = f"model {name!r} is not ready: its deployment is in progress or has failed"
            return json_response(error_body(message), 503)
        raise UnknownModelError(
            f"no model {name!r:.80} is served here; served: {', '.join(models) or 'none yet'}"
        )


class ModelIndex:
    """Models that Serve reports as deployed, cached for a second."""

    def __init__(self) -> None:
        self._models: list[ModelStatus] = []
        self._updated_at = -STATUS_AGE_S
        self._updating = asyncio.Lock()

    async def served(self) -> list[ModelStatus]:
        """Return the models, sorted by name."""
        async with self._updating:  # however many probes wait, the controller has one request
            if time.monotonic() - self._updated_at >= STATUS_AGE_S:
                self._models = model_statuses(await asyncio.to_thread(serve.status))
                self._updated_at = time.monotonic()
        return self._models


class Catalog:
    """Deployment class of the catalog: one small replica without a model."""

    def __init__(self, has_keys: bool = False, cors_origins: Sequence[str] = ()) -> None:
        """``has_keys``: whether the server has API keys. ``cors_origins``: see ``CatalogArgs``."""
        self._has_keys = has_keys
        self._cors_origins = cors_origins

    def __serve_build_asgi_app__(self) -> ASGIApp:
        cors.allow(self._cors_origins)
        app = FastAPI(title="Headrace", version=__version__, responses=openapi.ERRORS)
        add_server_paths(app, "", ModelIndex().served)
        app.add_middleware(BarePrefix)
        answer_errors(app, lambda outcome: None)
        return auth.door(app, None, self._has_keys)

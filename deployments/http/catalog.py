"""The server's own paths of the Open Inference Protocol, for all models behind the port.

GET /v2                server metadata          GET /v2/health/live    this answers
GET /v2/models         the models by name       GET /v2/health/ready   every model is running
a model's paths        503: it is not ready, or its own application would answer
anything else          404 with the names that are there
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from fastapi import FastAPI
from ray import serve
from ray.serve.schema import ApplicationStatus, ServeStatus
from starlette.responses import Response
from starlette.types import ASGIApp

from cluster import __version__
from cluster.errors import UnknownModelError
from cluster.protocol.metadata import error_body, server_metadata
from deployments.http import auth, openapi
from deployments.http.errors import answer_errors, json_response
from deployments.http.paths import BarePrefix
from deployments.ray.names import MODEL_DEPLOYMENT_PREFIX

STATUS_AGE_S = 1.0
"""How old an answer of Serve's controller may be, so that probes do not load it."""


@dataclass(frozen=True)
class Served:
    """One model behind the port."""

    name: str
    ready: bool


def served_models(status: ServeStatus) -> list[Served]:
    """The models among the applications of a Serve cluster, by name."""
    found = []
    for application in status.applications.values():
        ready = application.status == ApplicationStatus.RUNNING
        found += [
            Served(name.removeprefix(MODEL_DEPLOYMENT_PREFIX), ready)
            for name in application.deployments
            if name.startswith(MODEL_DEPLOYMENT_PREFIX)
        ]
    return sorted(found, key=lambda model: model.name)


Ask = Callable[[], Awaitable[list[Served]]]
"""What is behind the port now."""


def add_server_paths(app: FastAPI, prefix: str, served: Ask) -> None:
    """The server's own paths below ``prefix``, and last what answers for every other model."""

    @app.get(prefix or "/", summary="Server metadata")
    async def server() -> Response:
        return json_response(server_metadata("headrace", __version__))

    @app.get(f"{prefix}/health/live", summary="Whether the server runs")
    async def live() -> Response:
        return json_response({"live": True})

    @app.get(f"{prefix}/health/ready", summary="Whether every model answers")
    async def ready() -> Response:
        # Without names: it needs no key. Which one is not ready stands in the index.
        is_ready = all(model.ready for model in await served())
        return json_response({"ready": is_ready}, 200 if is_ready else 503)

    @app.get(f"{prefix}/models", summary="The models behind this port")
    async def index() -> Response:
        models = [{"name": model.name, "ready": model.ready} for model in await served()]
        return json_response({"models": models})

    other = f"{prefix}/models/{{name}}"

    @app.api_route(other, methods=["GET", "POST"], include_in_schema=False)
    @app.api_route(other + "/{_:path}", methods=["GET", "POST"], include_in_schema=False)
    async def unknown(name: str) -> Response:
        # A model that is here has a longer prefix, so its requests never come this way.
        models = [model.name for model in await served()]
        if name in models:  # answered here: the message of a 5xx error would be left out
            said = f"model {name!r} is not ready: it is being deployed, or that has failed"
            return json_response(error_body(said), 503)
        raise UnknownModelError(
            f"no model {name!r:.80} is served here; served: {', '.join(models) or 'none yet'}"
        )


class ModelIndex:
    """The models that Serve says are deployed; asked for at most once a second."""

    def __init__(self) -> None:
        self._models: list[Served] = []
        self._asked_at = -STATUS_AGE_S

    async def served(self) -> list[Served]:
        """By name."""
        if time.monotonic() - self._asked_at >= STATUS_AGE_S:
            self._models = served_models(await asyncio.to_thread(serve.status))
            self._asked_at = time.monotonic()
        return self._models


class Catalog:
    """The deployment class; one small replica, no model in it."""

    def __serve_build_asgi_app__(self) -> ASGIApp:
        app = FastAPI(title="Headrace", version=__version__, responses=openapi.ERRORS)
        add_server_paths(app, "", ModelIndex().served)
        app.add_middleware(BarePrefix)
        answer_errors(app, lambda outcome: None)
        return auth.door(app, None)

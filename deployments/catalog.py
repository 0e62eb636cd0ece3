"""The server's own paths of the Open Inference Protocol, for all models behind the port.

GET /v2                server metadata          GET /v2/health/live    this answers
GET /v2/models         the models by name       GET /v2/health/ready   every model is running
a model's paths        503: it is not ready, or its own application would answer
anything else          404 with the names that are there
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from fastapi import FastAPI
from ray import serve
from ray.serve.schema import ApplicationStatus, ServeStatus
from starlette.responses import Response

from cluster import __version__
from cluster.errors import UnknownModelError
from cluster.protocol.metadata import error_body, server_metadata
from deployments import openapi
from deployments.endpoints import BarePrefix
from deployments.errors import answer_errors, json_response
from deployments.names import MODEL_DEPLOYMENT_PREFIX

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


class Catalog:
    """The deployment class; one small replica, no model in it."""

    def __init__(self) -> None:
        self._models: list[Served] = []
        self._asked_at = -STATUS_AGE_S

    def __serve_build_asgi_app__(self) -> FastAPI:
        app = FastAPI(title="Headrace", version=__version__, responses=openapi.ERRORS)

        @app.get("/", summary="Server metadata")
        async def server() -> Response:
            return json_response(server_metadata("headrace", __version__))

        @app.get("/health/live", summary="Whether the server runs")
        async def live() -> Response:
            return json_response({"live": True})

        @app.get("/health/ready", summary="Whether every model answers")
        async def ready() -> Response:
            models = await self._served()
            waiting = [model.name for model in models if not model.ready]
            return json_response(
                {"ready": not waiting, "waiting_for": waiting}, 503 if waiting else 200
            )

        @app.get("/models", summary="The models behind this port")
        async def index() -> Response:
            models = await self._served()
            return json_response(
                {"models": [{"name": model.name, "ready": model.ready} for model in models]}
            )

        @app.api_route("/models/{name}", methods=["GET", "POST"], include_in_schema=False)
        @app.api_route("/models/{name}/{_:path}", methods=["GET", "POST"], include_in_schema=False)
        async def unknown(name: str) -> Response:
            # A model that is here has a longer prefix, so its requests never come this way.
            models = [model.name for model in await self._served()]
            if name in models:  # answered here: the message of a 5xx error would be left out
                said = f"model {name!r} is not ready: it is being deployed, or that has failed"
                return json_response(error_body(said), 503)
            raise UnknownModelError(
                f"no model {name!r:.80} is served here; served: {', '.join(models) or 'none yet'}"
            )

        app.add_middleware(BarePrefix)
        answer_errors(app, lambda outcome: None)
        return app

    async def _served(self) -> list[Served]:
        if time.monotonic() - self._asked_at >= STATUS_AGE_S:
            self._models = served_models(await asyncio.to_thread(serve.status))
            self._asked_at = time.monotonic()
        return self._models

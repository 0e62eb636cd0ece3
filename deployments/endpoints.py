"""The HTTP paths of one model, below its route prefix /v2/models/NAME.

POST /infer  /predict     see inference.py
GET  ""  /ready           metadata, readiness
GET  /docs  /openapi.json
and the first four below /versions/VERSION, as the protocol allows
"""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import Depends, FastAPI, Query, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from cluster.errors import UnknownModelError
from cluster.protocol.metadata import model_config, model_metadata
from cluster.protocol.predict import MAX_TOP_K
from deployments import inference, openapi
from deployments.errors import answer_errors, error_response, json_response
from deployments.inference import Model

TopK = Annotated[
    int | None,
    Query(alias="top_k", ge=1, le=MAX_TOP_K, description="Labels to answer; before the body's."),
]


class ModelApp:
    """The application that answers for one model.

    FastAPI's routing, dependencies and middlewares cost a request about 0.4 ms. Every path but
    one can afford that.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._paths = _paths(model)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if (
                scope["type"] == "http"
                and scope["method"] == "POST"
                and scope["path"] == scope.get("root_path", "") + "/infer"
            ):
                await self._infer(scope, receive, send)
            else:
                await self._paths(scope, receive, send)
        except asyncio.CancelledError:
            self._model.metrics.failed("cancelled")
            raise

    async def _infer(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            response = await inference.infer(self._model, Request(scope, receive))
        except Exception as error:  # noqa: BLE001 - answered, and logged if it is ours
            response = error_response(error, self._model.metrics.failed)
        await response(scope, receive, send)


def _paths(model: Model) -> FastAPI:
    """Every path of the model, /infer among them for its versions and for the OpenAPI page."""

    async def infer(request: Request) -> Response:
        return await inference.infer(model, request)

    async def predict(request: Request, k: TopK = None) -> Response:
        return await inference.predict(model, request, k)

    async def ready() -> Response:
        return json_response({"name": model.name, "ready": True})

    async def metadata() -> Response:
        manifest = model.manifest
        return json_response(
            model_metadata(
                model.name, [model.version], model.platform, manifest.inputs, manifest.outputs
            )
        )

    async def config() -> Response:
        manifest = model.manifest
        return json_response(
            model_config(
                model.name, model.platform, model.max_batch_size, manifest.inputs, manifest.outputs
            )
        )

    def served(version: str) -> None:
        if version != model.version:
            raise UnknownModelError(
                f"model {model.name} has no version {version!r:.80}, only {model.version!r}"
            )

    app = FastAPI(
        title=f"Headrace model {model.name}", version=model.version, responses=openapi.ERRORS
    )
    for prefix, checks in (("", []), ("/versions/{version}", [Depends(served)])):
        add = app.add_api_route
        add(f"{prefix}/infer", infer, methods=["POST"], dependencies=checks,
            summary="Tensors in, tensors out", openapi_extra=openapi.INFER)  # fmt: skip
        add(f"{prefix}/predict", predict, methods=["POST"], dependencies=checks,
            summary="The likeliest labels", openapi_extra=openapi.PREDICT)  # fmt: skip
        add(f"{prefix}/ready", ready, dependencies=checks, summary="Whether the model answers")
        add(f"{prefix}/config", config, dependencies=checks, summary="Triton's configuration")
        add(prefix or "/", metadata, dependencies=checks, summary="Inputs, outputs, versions")
    app.add_middleware(BarePrefix)
    answer_errors(app, model.metrics.failed)
    return app


class BarePrefix:
    """Lets the route prefix itself reach the path ``/``: routers match nothing on no path."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == scope.get("root_path"):
            scope["path"] += "/"
        await self._app(scope, receive, send)

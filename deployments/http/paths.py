"""HTTP paths of one model, or of a route, below /v2/models/NAME.

POST /infer  /predict     see model/infer.py; a route has no /predict
GET  ""  /ready  /config  metadata, readiness, Triton's configuration
GET  /stats               statistics of this replica
GET  /docs  /openapi.json
and all but the last two also below /versions/VERSION: the artifact's, or 1 for the current one
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, FastAPI, Query, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from cluster.activation import OutputActivation
from cluster.errors import UnknownModelError
from cluster.protocol.metadata import (
    CURRENT_VERSION,
    error_body,
    model_config,
    model_metadata,
)
from cluster.protocol.predict import MAX_TOP_K
from cluster.protocol.statistics import Statistics
from cluster.tensors import TensorSpec
from deployments.http import openapi
from deployments.http.compression import compress
from deployments.http.errors import Count, answer_errors, error_response, json_response
from deployments.http.unsupported import OF_MODEL, add_unsupported

TopK = Annotated[
    int | None,
    Query(alias="top_k", ge=1, le=MAX_TOP_K, description="Number of labels; overrides the body."),
]


@dataclass(frozen=True)
class Endpoint:
    """Metadata of a model or route, and the functions that answer its paths."""

    name: str
    version: str
    """Version in answers: the beginning of the artifact's id, or a hash of the routes."""

    platform: str
    artifact: str | None
    """``NAME@ID`` of a model's artifact; None for a route."""

    inputs: Sequence[TensorSpec]
    outputs: Sequence[TensorSpec]
    max_batch_size: int
    infer: Callable[[Request], Awaitable[Response]]
    predict: Callable[[Request, int | None], Awaitable[Response]] | None
    """None for a route."""

    ready: Callable[[], bool]
    failed: Count
    statistics: Statistics
    activation: OutputActivation = "none"
    """Meaning of a model's output, for /predict."""

    labels: Sequence[str] = ()
    """Names of a model's outputs."""

    @property
    def versions(self) -> tuple[str, ...]:
        """Versions that a client may request."""
        return tuple(dict.fromkeys((self.version, CURRENT_VERSION)))


class ModelApp:
    """ASGI application of one model or route.

    POST /infer bypasses FastAPI, whose routing, dependencies and middlewares cost a request about
    0.4 ms. The other paths can afford that.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._infer_paths = frozenset(
            ("/infer", *(f"/versions/{version}/infer" for version in endpoint.versions))
        )
        self._paths = _paths(endpoint)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if (
                scope["type"] == "http"
                and scope["method"] == "POST"
                and scope["path"].removeprefix(scope.get("root_path", "")) in self._infer_paths
            ):
                await self._infer(scope, receive, send)
            else:
                await self._paths(scope, receive, send)
        except asyncio.CancelledError:
            self._endpoint.failed("cancelled")
            raise

    async def _infer(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            response = await _answer(self._endpoint, request, self._endpoint.infer(request))
        except Exception as error:  # noqa: BLE001 - answered, and logged if it is a server error
            response = error_response(error, self._endpoint.failed)
        await response(scope, receive, send)


async def _answer(endpoint: Endpoint, request: Request, computed: Awaitable[Response]) -> Response:
    """Return the answer to an inference, compressed if requested; count a failure."""
    started = time.perf_counter()
    try:
        response = await computed
    except BaseException:  # also a cancelled request
        endpoint.statistics.failed(time.perf_counter() - started)
        raise
    if response.status_code >= 400:
        endpoint.statistics.failed(time.perf_counter() - started)
    await compress(response, request.headers.get("accept-encoding"))
    return response


def _paths(endpoint: Endpoint) -> FastAPI:
    """Return all paths of the model, with /infer for its versions and for the OpenAPI page."""
    name, predict = endpoint.name, endpoint.predict

    async def infer(request: Request) -> Response:
        return await _answer(endpoint, request, endpoint.infer(request))

    async def ready() -> Response:
        is_ready = endpoint.ready()
        return json_response({"name": name, "ready": is_ready}, 200 if is_ready else 503)

    async def metadata() -> Response:
        return json_response(
            model_metadata(
                name,
                endpoint.versions,
                endpoint.platform,
                endpoint.inputs,
                endpoint.outputs,
                endpoint.artifact,
                endpoint.activation if predict is not None else None,
            )
        )

    async def config() -> Response:
        return json_response(
            model_config(
                name, endpoint.platform, endpoint.max_batch_size, endpoint.inputs, endpoint.outputs
            )
        )

    async def statistics() -> Response:
        return json_response(endpoint.statistics.describe(name, CURRENT_VERSION))

    def require_version(version: str) -> None:
        if version not in endpoint.versions:
            known = " and ".join(map(repr, endpoint.versions))
            raise UnknownModelError(f"model {name} has no version {version!r:.80}, only {known}")

    app = FastAPI(
        title=f"Headrace model {name}", version=endpoint.version, responses=openapi.ERRORS
    )
    for prefix, checks in (("", []), ("/versions/{version}", [Depends(require_version)])):
        add = app.add_api_route
        add(
            f"{prefix}/infer",
            infer,
            methods=["POST"],
            dependencies=checks,
            summary="Tensors in, tensors out",
            openapi_extra=openapi.INFER,
        )
        if predict is not None:
            add(
                f"{prefix}/predict",
                _predict(endpoint, predict),
                methods=["POST"],
                dependencies=checks,
                summary="Labels or numbers of one item",
                openapi_extra=openapi.predict(
                    endpoint.activation, endpoint.labels, endpoint.outputs[0].name
                ),
            )
        add(f"{prefix}/ready", ready, dependencies=checks, summary="Whether the model answers")
        add(f"{prefix}/config", config, dependencies=checks, summary="Triton's configuration")
        add(f"{prefix}/stats", statistics, dependencies=checks, summary="Statistics of a replica")
        add(prefix or "/", metadata, dependencies=checks, summary="Inputs, outputs, versions")
        add_unsupported(app, prefix, OF_MODEL)
    app.add_middleware(BarePrefix)
    answer_errors(app, endpoint.failed)
    return app


def _predict(
    endpoint: Endpoint, compute: Callable[[Request, int | None], Awaitable[Response]]
) -> Callable[..., Awaitable[Response]]:
    async def predict(request: Request, k: TopK = None) -> Response:
        return await _answer(endpoint, request, compute(request, k))

    return predict


class AtPrefix:
    """Answers 404 unless the application is mounted where clients, routers and HAProxy expect it.

    Serve applies a changed ``route_prefix`` without building the application again.
    """

    def __init__(self, app: ASGIApp, prefix: str) -> None:
        self._app = app
        self._prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        root = scope.get("root_path", "")
        if scope["type"] == "http" and not root.endswith(self._prefix):
            message = (
                f"this application has the route_prefix {root or '/'!r:.80}, expected "
                f"{self._prefix!r}; deploy it there"
            )
            await json_response(error_body(message), 404)(scope, receive, send)
            return
        await self._app(scope, receive, send)


class BarePrefix:
    """Middleware that maps the bare route prefix to ``/``: routers do not match an empty path."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == scope.get("root_path"):
            scope["path"] += "/"
        await self._app(scope, receive, send)

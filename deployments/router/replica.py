"""The router: a replica without a model, whose routes call several models.

/v2/models/ROUTE/...   → ModelApp of the route → its node → the models' replicas
/v2/shadow/ROUTE       agreement and latencies of a shadow, so far
other paths            the server's own paths: see the catalog
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from dataclasses import replace

from fastapi import FastAPI, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from cluster import __version__
from cluster.errors import HeadraceError, UnknownModelError
from cluster.protocol.metadata import error_body
from deployments.config.deployed import deployed_models
from deployments.http import auth, cors, keys, openapi
from deployments.http.catalog import READY, ModelIndex, ModelStatus, add_server_paths
from deployments.http.errors import answer_errors, json_response
from deployments.http.headers import ROUTER_KEY
from deployments.http.paths import BarePrefix, Endpoint, ModelApp
from deployments.ray.names import MODELS_PATH
from deployments.router.comparison import Background
from deployments.router.endpoint import RouteEndpoint
from deployments.router.model_client import ReplicaClient
from deployments.router.nodes.build import RouteNode, route_nodes
from deployments.router.nodes.shadow import ShadowNode
from deployments.router.plan import RoutingPlan, plan_routes
from deployments.router.replica_table import Replicas
from deployments.router.versions import Planned, Versions

logger = logging.getLogger("ray.serve")

START_S = 10.0
"""Time that a new router waits for the addresses of the models' replicas, in seconds."""


class RouterReplica:
    """Deployment class of a router."""

    def __init__(self, plan: RoutingPlan, has_keys: bool = False) -> None:
        """``has_keys``: whether the server has API keys."""
        self._has_keys = has_keys
        self._cors_origins = plan.args.cors_origins
        self._app = RouterApp(plan)

    def __serve_build_asgi_app__(self) -> ASGIApp:
        cors.allow(self._cors_origins)
        return auth.door(self._app, None, self._has_keys)

    async def check_health(self) -> None:
        """Start the router at Serve's first check, in the loop of the requests; then check it."""
        await self._app.start()


class RouterApp:
    """ASGI application of a router."""

    def __init__(self, plan: RoutingPlan) -> None:
        self._plan = plan
        self._thresholds = dict(plan.thresholds)
        self._replicas = Replicas()
        self._background = Background()
        self._index = ModelIndex()
        self._routes: dict[str, RouteNode] = {}
        self._apps: dict[str, ModelApp] = {}
        self._paths = self._server_paths()
        # This key tells the models that the router has authenticated the client.
        has_keys = keys.configured() is not None
        self._router_headers = {ROUTER_KEY: auth.router_key()} if has_keys else {}

    async def start(self) -> None:
        """Connect to the models, in the running loop; when connected, check that it still is."""
        if self._routes:
            self._replicas.require_following()
            return
        self._replicas.start()
        versions = {name: model.version for name, model in self._plan.models.items()}
        self._routes = route_nodes(
            self._plan,
            self._thresholds,
            self._replicas,
            ReplicaClient(),
            Versions(versions, self._plan.thresholds, self._replan, self._thresholds.update),
            self._background,
        )
        version = hashlib.sha256(repr(self._plan).encode()).hexdigest()[:12]
        self._apps = {
            name: ModelApp(self._endpoint(route, version)) for name, route in self._routes.items()
        }
        if not await self._replicas.known(START_S):
            logger.warning("Serve has not reported its replicas' addresses within %g s", START_S)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope.get("path", "")
        root: str = scope.get("root_path", "")
        prefix = root + MODELS_PATH
        if scope["type"] == "http" and path.startswith(prefix):
            name = path[len(prefix) :].partition("/")[0]
            if (app := self._apps.get(name)) is not None:
                if (refusal := auth.refusal_for(scope, name)) is not None:
                    await refusal.send(send)
                    return
                await app({**scope, "root_path": prefix + name}, receive, send)
                return
        await self._paths(scope, receive, send)

    async def _replan(self, model: str, version: str) -> Planned:
        """Plan for the models that are deployed now; with the reason, for clients, if it fails.

        The error itself is for operators: it names directories and other models.
        """
        args = self._plan.args.model_copy(update={"artifacts": {}})  # those of the build
        try:
            plan = await asyncio.to_thread(lambda: plan_routes(args, deployed_models()))
        except HeadraceError as error:
            logger.error("the routes cannot use the artifact that %s serves now: %s", model, error)
            reason = "the routes cannot use it, for the reason in the router's log"
            return Planned(reason, may_change=True)
        before, now = self._plan.models[model].contract, plan.models[model].contract
        if replace(now, max_items=None) != replace(before, max_items=None):
            return Planned("its inputs, outputs or labels differ from those of the plan")
        if plan.models[model].version != version:
            return Planned("it is being replaced", may_change=True)
        return Planned(None, thresholds=plan.thresholds)

    def _endpoint(self, served: RouteNode, version: str) -> Endpoint:
        contract, limits = served.node.contract, self._plan.args.limits
        item_bytes = sum(spec.item_bytes for spec in contract.inputs)
        return Endpoint(
            name=served.route.name,
            version=version,
            platform=f"headrace_{served.route.kind}",
            artifact=None,
            inputs=contract.inputs,
            outputs=contract.outputs,
            max_batch_size=contract.max_items or max(1, limits.body_bytes // item_bytes),
            infer=RouteEndpoint(
                served, limits, self._replicas, version, self._router_headers
            ).infer,
            predict=None,
            ready=lambda: served.node.available,
            failed=served.metrics.failed,
            statistics=served.metrics.statistics,
        )

    def _server_paths(self) -> FastAPI:
        app = FastAPI(title="Headrace", version=__version__, responses=openapi.ERRORS)

        @app.get("/v2/shadow/{name}", summary="Agreement and latencies of a shadow route")
        async def shadow(name: str, request: Request) -> Response:
            if (refusal := auth.refusal_for(request.scope, name)) is not None:
                return json_response(error_body(refusal.message), refusal.status)
            shadows = {
                route: served.node
                for route, served in self._routes.items()
                if isinstance(served.node, ShadowNode)
            }
            if name not in shadows:
                raise UnknownModelError(
                    f"no shadow route {name!r:.80}; available: {', '.join(shadows) or 'none'}"
                )
            return json_response({"name": name, **shadows[name].totals.summary()})

        add_server_paths(app, "/v2", self._served)
        app.add_middleware(BarePrefix)
        answer_errors(app, lambda outcome: None)
        return app

    async def _served(self) -> list[ModelStatus]:
        routes = [
            ModelStatus(name, READY)
            if route.node.available
            else ModelStatus(name, "UNAVAILABLE", "a model that it calls has no replica")
            for name, route in self._routes.items()
        ]
        return sorted([*await self._index.served(), *routes], key=lambda served: served.name)

"""The router: a replica with no model in it, whose routes ask several.

/v2/models/ROUTE/...   → ModelApp of the route → its node → the models' replicas
/v2/shadow/ROUTE       what a shadow has shown so far
all else               the server's own paths, as the catalog has them
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
from deployments.http import auth, keys, openapi
from deployments.http.catalog import ModelIndex, Served, add_server_paths
from deployments.http.errors import answer_errors, json_response
from deployments.http.headers import ROUTER_KEY
from deployments.http.paths import BarePrefix, Endpoint, ModelApp
from deployments.router import plan as routing_plan
from deployments.router.comparison import Background
from deployments.router.endpoint import RouteEndpoint
from deployments.router.model_client import Client
from deployments.router.nodes.build import RouteNode, route_nodes
from deployments.router.nodes.shadow import ShadowNode
from deployments.router.plan import RoutingPlan
from deployments.router.replica_table import Replicas
from deployments.router.versions import Versions

logger = logging.getLogger("ray.serve")

MODELS = "/v2/models/"

START_S = 10.0
"""How long a new router waits to hear where the models' replicas are."""


class RouterReplica:
    """The deployment class."""

    def __init__(self, plan: RoutingPlan) -> None:
        self._plan = plan
        self._app = RouterApp(plan)

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return auth.door(self._app, None)

    async def check_health(self) -> None:
        """Also the first thing that Serve asks, in the loop that requests are answered in."""
        await self._app.start()


class RouterApp:
    """The ASGI application of a router."""

    def __init__(self, plan: RoutingPlan) -> None:
        self._plan = plan
        self._thresholds = dict(plan.thresholds)
        self._replicas = Replicas()
        self._background = Background()
        self._index = ModelIndex()
        self._routes: dict[str, RouteNode] = {}
        self._apps: dict[str, ModelApp] = {}
        self._paths = self._server_paths()
        # What tells the models that this router has let the client in.
        closed = keys.configured() is not None
        self._own_headers = {ROUTER_KEY: auth.router_key()} if closed else {}

    async def start(self) -> None:
        """Connect to the models, in the running loop; after that, make sure that it lasts."""
        if self._routes:
            self._replicas.require_following()
            return
        self._replicas.start()
        planned = {name: model.version for name, model in self._plan.models.items()}
        self._routes = route_nodes(
            self._plan, self._thresholds, self._replicas, Client(),
            Versions(planned, self._replan), self._background,
        )  # fmt: skip
        version = hashlib.sha256(repr(self._plan).encode()).hexdigest()[:12]
        self._apps = {
            name: ModelApp(self._endpoint(route, version)) for name, route in self._routes.items()
        }
        if not await self._replicas.known(START_S):
            logger.warning("Serve has not said within %g s where replicas are", START_S)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope.get("path", "")
        root: str = scope.get("root_path", "")
        prefix = root + MODELS
        if scope["type"] == "http" and path.startswith(prefix):
            name = path[len(prefix) :].partition("/")[0]
            if (app := self._apps.get(name)) is not None:
                if (refusal := auth.refusal_for(scope, name)) is not None:
                    await refusal.send(send)
                    return
                await app({**scope, "root_path": prefix + name}, receive, send)
                return
        await self._paths(scope, receive, send)

    async def _replan(self, model: str) -> str | None:
        """Plan for the models that are deployed now; why not, in words for clients."""
        try:
            plan = await asyncio.to_thread(
                lambda: routing_plan.planned(self._plan.args, routing_plan.deployed_models())
            )
        except HeadraceError as error:  # for operators: it names directories, and other models
            logger.error("the routes cannot be planned for what %s serves now: %s", model, error)
            return "the routes cannot be planned for it, and the router's log says why"
        before, now = self._plan.models[model].contract, plan.models[model].contract
        if replace(now, max_items=None) != replace(before, max_items=None):
            return "it takes other inputs, or tells other labels apart"
        self._thresholds.update(plan.thresholds)
        return None

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
            infer=RouteEndpoint(served, limits, self._replicas, version, self._own_headers).infer,
            predict=None,
            ready=lambda: served.node.there,
            failed=served.metrics.failed,
        )

    def _server_paths(self) -> FastAPI:
        app = FastAPI(title="Headrace", version=__version__, responses=openapi.ERRORS)

        @app.get("/v2/shadow/{name}", summary="What a shadow route has shown so far")
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
                    f"no shadow route {name!r:.80}; there are: {', '.join(shadows) or 'none'}"
                )
            return json_response({"name": name, **shadows[name].agreement.summary()})

        add_server_paths(app, "/v2", self._served)
        app.add_middleware(BarePrefix)
        answer_errors(app, lambda outcome: None)
        return app

    async def _served(self) -> list[Served]:
        routes = [Served(name, served.node.there) for name, served in self._routes.items()]
        return sorted([*await self._index.served(), *routes], key=lambda each: each.name)

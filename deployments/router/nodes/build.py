"""Construction of a router's nodes from its plan.

RoutingPlan: routes, contracts, models, thresholds → model nodes → route nodes, by name
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cluster.config.routing import (
    Canary,
    Cascade,
    Chain,
    Ensemble,
    Hedge,
    MultiTask,
    Quorum,
    Route,
    Scatter,
    Shadow,
)
from cluster.factory import find_factory
from cluster.routing.answer_cache import AnswerCache
from deployments.router.call import Node
from deployments.router.comparison import Background
from deployments.router.metrics import RouteMetrics
from deployments.router.model_client import ModelNode, ReplicaClient
from deployments.router.nodes.canary import CanaryNode
from deployments.router.nodes.cascade import CascadeNode
from deployments.router.nodes.chain import ChainNode
from deployments.router.nodes.ensemble import EnsembleNode
from deployments.router.nodes.hedge import HedgeNode
from deployments.router.nodes.multi_task import MultiTaskNode
from deployments.router.nodes.scatter import ScatterNode
from deployments.router.nodes.shadow import ShadowNode
from deployments.router.plan import PYTHON, RoutingPlan
from deployments.router.replica_table import Replicas
from deployments.router.versions import Versions


@dataclass(frozen=True)
class RouteNode:
    """Route with its node, its metrics and its answer cache."""

    route: Route
    node: Node
    metrics: RouteMetrics
    answers: AnswerCache | None
    """Cache of the answers; None if the route has no cache."""


def route_nodes(
    plan: RoutingPlan,
    thresholds: Mapping[str, tuple[float, ...]],
    replicas: Replicas,
    client: ReplicaClient,
    versions: Versions,
    background: Background,
) -> dict[str, RouteNode]:
    """Return the routes of a plan, by name. ``thresholds`` is read at every request."""
    nodes: dict[str, Node] = {
        name: ModelNode(model, replicas, client, versions) for name, model in plan.models.items()
    }
    by_name = {route.name: route for route in plan.args.routes}
    routes: dict[str, RouteNode] = {}

    def node(name: str) -> Node:
        if name not in nodes:
            route = by_name[name]
            targets = [node(target.target) for target in route.all_targets]
            metrics = RouteMetrics(name)
            nodes[name] = _node(route, plan, thresholds, targets, background, metrics)
            answers = AnswerCache(route.cache_bytes) if route.cache_bytes else None
            routes[name] = RouteNode(route, nodes[name], metrics, answers)
        return nodes[name]

    for name in by_name:
        node(name)
    return routes


def _node(
    route: Route,
    plan: RoutingPlan,
    thresholds: Mapping[str, tuple[float, ...]],
    targets: list[Node],
    background: Background,
    metrics: RouteMetrics,
) -> Node:
    contract = plan.contracts[route.name]
    match route:
        case Ensemble() | Quorum():
            python = route.combine.startswith(PYTHON)
            combine = find_factory(route.combine.removeprefix(PYTHON)) if python else None
            return EnsembleNode(route, contract, targets, combine)
        case MultiTask():
            return MultiTaskNode(route, contract, targets)
        case Cascade():
            name = route.name
            return CascadeNode(
                route, contract, targets, lambda: thresholds[name], metrics.answered_by
            )
        case Hedge():
            return HedgeNode(route, contract, targets[0], targets[1], metrics.hedged)
        case Shadow():
            live, shadow = targets
            return ShadowNode(route, contract, live, shadow, background, metrics.compared)
        case Canary():
            old, new = targets
            return CanaryNode(route, contract, old, new, background, metrics.rolled_back)
        case Scatter():
            part_items = route.part_items or targets[0].contract.max_items or 1
            return ScatterNode(route, contract, targets[0], part_items)
        case Chain():
            return ChainNode(route, contract, targets)

"""A router's plan: what its routes ask, and whether that fits, before anything is deployed.

    RouterArgs ─────────────────────┐
    the models' ModelArgs → manifest ┴→ contracts → RoutingPlan, or a ConfigError with its route

The models are those that are deployed, or are about to be, with the same config: manifests are
read, never weights, and no model has to run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cluster.artifact.manifest import Manifest
from cluster.artifact.served import open_served
from cluster.config.routing import Cascade, RouterArgs
from cluster.config.serving import ModelArgs
from cluster.errors import ClusterError
from cluster.factory import find_factory
from cluster.routing.contracts import Contract, Scores, contracts
from deployments.config import serve_config
from deployments.ray.controller import serve_details
from deployments.ray.names import version_of
from deployments.router.model_client import ServedModel
from deployments.router.thresholds import Targets, calibrated_thresholds

PYTHON = "python:"


@dataclass(frozen=True)
class RoutingPlan:
    """All that a router needs to know, checked before it is deployed."""

    args: RouterArgs
    models: Mapping[str, ServedModel]
    """Every model that a route asks, by name."""

    contracts: Mapping[str, Contract]
    """Of the routes, by name."""

    thresholds: Mapping[str, tuple[float, ...]]
    """Of the cascades, by name, for the artifacts of ``models``."""


def planned(args: RouterArgs, models: Sequence[ModelArgs]) -> RoutingPlan:
    """The plan of a router over those models.

    Raises ConfigError, naming the route, for what cannot work, ArtifactError for a model whose
    artifact cannot be read, and SourceError for a function that cannot be imported.
    """
    asked = {target.target for route in args.routes for target in route.asked}
    served = {model.name: _served(model) for model in models if model.name in asked}
    found = contracts(
        args.routes,
        {name: model.contract for name, model in served.items()},
        {model.name for model in models},
    )
    for route in args.routes:
        combine = getattr(route, "combine", "")
        if combine.startswith(PYTHON):
            find_factory(combine.removeprefix(PYTHON))
    targets = Targets(
        {route.name: route for route in args.routes}, {model.name: model for model in models}
    )
    thresholds = {
        route.name: calibrated_thresholds(route, targets, args.store)
        if isinstance(route.thresholds, str)
        else route.thresholds
        for route in args.routes
        if isinstance(route, Cascade)
    }
    return RoutingPlan(args, served, found, thresholds)


def deployed_models() -> list[ModelArgs]:
    """The models among the applications that this Serve cluster was asked for, running or not."""
    details = serve_details()
    if details is None:
        raise ClusterError("a router is deployed on a cluster that runs Serve; there is none here")
    found = []
    for application in details["applications"].values():
        config = application.get("deployed_app_config") or {}
        if config.get("import_path") == serve_config.MODEL:
            found.append(serve_config.model_args(config.get("args") or {}, application["name"]))
    return found


def _served(model: ModelArgs) -> ServedModel:
    artifact = open_served(model)
    queued = model.max_queued_requests
    return ServedModel(
        name=model.name,
        version=version_of(str(artifact.id)),
        route_prefix=serve_config.ROUTE + model.name,
        contract=_contract(artifact.manifest, model.batching.max_batch_size),
        capacity=None if queued < 0 else model.ongoing_requests + queued,
    )


def _contract(manifest: Manifest, max_items: int) -> Contract:
    tells_apart = bool(manifest.labels) and manifest.outputs[0].item_shape == (
        len(manifest.labels),
    )
    return Contract(
        inputs=manifest.inputs,
        outputs=manifest.outputs,
        labels=manifest.labels,
        scores=Scores.LOGITS if tells_apart else Scores.NONE,
        max_items=max_items,
    )

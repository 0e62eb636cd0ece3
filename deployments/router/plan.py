"""Plan of a router: the models and contracts of its routes, checked before anything is deployed.

    RouterArgs ───────────────────────────────┐
    the models' ModelArgs → bound to artifacts ┴→ contracts → RoutingPlan, or a ConfigError

The models are those of the same config, deployed or about to be. Only manifests are read, never
weights, and no model has to run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cluster.artifact.manifest import Manifest
from cluster.artifact.served import BoundModel, bind
from cluster.config.routing import Cascade, RouterArgs
from cluster.factory import find_factory
from cluster.routing.contracts import Contract, Scores, contracts
from deployments.config.deployed import DeployedModel
from deployments.ray.names import MODELS_PATH, version_of
from deployments.router.model_client import ServedModel
from deployments.router.thresholds import Targets, calibrated_thresholds

PYTHON = "python:"


@dataclass(frozen=True)
class RoutingPlan:
    """Checked configuration of a router."""

    args: RouterArgs
    models: Mapping[str, ServedModel]
    """Models that the routes call, by name."""

    contracts: Mapping[str, Contract]
    """Contracts of the routes, by name."""

    thresholds: Mapping[str, tuple[float, ...]]
    """Thresholds of the cascades, by name, for the artifacts of ``models``."""


def plan_routes(args: RouterArgs, models: Sequence[DeployedModel]) -> RoutingPlan:
    """Plan the routes of a router over those models.

    Raises ConfigError with the route's name for a route that cannot work, ArtifactError for an
    unreadable artifact, SourceError for a function that cannot be imported.
    """
    targets = {target.target for route in args.routes for target in route.all_targets}
    bound = {
        model.name: bind(model.args, args.artifacts.get(model.name) or model.artifact)
        for model in models
        if model.name in targets
    }
    served = {name: _served(model) for name, model in bound.items()}
    route_contracts = contracts(
        args.routes,
        {name: model.contract for name, model in served.items()},
        {model.name for model in models},
    )
    for route in args.routes:
        combine = getattr(route, "combine", "")
        if combine.startswith(PYTHON):
            find_factory(combine.removeprefix(PYTHON))
    identities = Targets({route.name: route for route in args.routes}, bound)
    thresholds = {
        route.name: calibrated_thresholds(route, identities, args.store)
        if isinstance(route.thresholds, str)
        else route.thresholds
        for route in args.routes
        if isinstance(route, Cascade)
    }
    return RoutingPlan(args, served, route_contracts, thresholds)


def _served(model: BoundModel) -> ServedModel:
    args = model.args
    queued = args.max_queued_requests
    return ServedModel(
        name=model.name,
        version=version_of(model.artifact_id),
        route_prefix=MODELS_PATH + model.name,
        contract=_contract(model.manifest, args.batching.max_batch_size),
        capacity=None if queued < 0 else args.ongoing_requests + queued,
    )


def _contract(manifest: Manifest, max_items: int) -> Contract:
    is_classifier = (
        bool(manifest.labels)
        and manifest.activation != "none"
        and manifest.outputs[0].item_shape == (len(manifest.labels),)
    )
    return Contract(
        inputs=manifest.inputs,
        outputs=manifest.outputs,
        labels=manifest.labels,
        scores=Scores.LOGITS if is_classifier else Scores.NONE,
        max_items=max_items,
        activation=manifest.activation,
    )

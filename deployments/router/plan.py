"""Plan of a router: the models and contracts of its routes, checked before anything is deployed.

    RouterArgs ───────────────────────────────┐
    the models' ModelArgs → bound to artifacts ┴→ contracts → RoutingPlan, or a ConfigError

The models are those of the same config, deployed or about to be. Only manifests are read, never
weights, and no model has to run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.artifact.manifest import Manifest
from cluster.artifact.references import may_stand_for
from cluster.artifact.served import BoundModel, bind
from cluster.config.routing import Cascade, RouterArgs
from cluster.config.serving import ModelArgs
from cluster.errors import ClusterError
from cluster.factory import find_factory
from cluster.routing.contracts import Contract, Scores, contracts
from deployments.config import serve_config
from deployments.ray.controller import serve_details
from deployments.ray.names import (
    ARGS,
    ARTIFACT,
    MODEL_DEPLOYMENT_PREFIX,
    MODELS_PATH,
    STORE,
    version_of,
)
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


@dataclass(frozen=True)
class Deployed:
    """Model of a Serve config, and the artifact that its deployment serves."""

    args: ModelArgs
    artifact: str | None = None
    """``NAME@ID`` of the deployment; None: it is not deployed yet."""

    store: str | None = None
    """Store that the deployment found it in; None: unknown, as of an earlier release."""

    @property
    def name(self) -> str:
        """Name of the model in URLs."""
        return self.args.name


def plan_routes(args: RouterArgs, models: Sequence[Deployed]) -> RoutingPlan:
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


def deployed_models() -> list[Deployed]:
    """Return the models among the applications of this Serve cluster, running or not.

    Raises ClusterError if the cluster runs no Serve.
    """
    details = serve_details()
    if details is None:
        raise ClusterError(
            "a router needs a cluster that runs Serve, and this one runs none; start Serve first"
        )
    deployed = (deployed_model(application) for application in details["applications"].values())
    return [model for model in deployed if model is not None]


def deployed_model(application: Mapping[str, Any]) -> Deployed | None:
    """Return the model of an application; None if the application is not a model's.

    ``application``: its entry in Serve's details. An application of a Serve config has its args
    there; one of ``serve.run`` has them in its deployment. ConfigError for wrong args.
    """
    if (config := application.get("deployed_app_config")) is not None:
        if serve_config.builder_of(config.get("import_path")) != serve_config.MODEL:
            return None
        args = serve_config.model_args(config.get("args") or {}, application["name"])
        facts = _facts(application, MODEL_DEPLOYMENT_PREFIX + args.name)
        artifact: str | None = facts.get(ARTIFACT)
        if artifact is None or not may_stand_for(args.artifact, artifact):
            return Deployed(args)  # not deployed yet, or its args name another artifact by now
        return Deployed(args, artifact, facts.get(STORE))
    for name in application["deployments"]:
        facts = _facts(application, name)
        if name.startswith(MODEL_DEPLOYMENT_PREFIX) and ARGS in facts:
            args = serve_config.model_args(facts[ARGS], application["name"])
            return Deployed(args, facts[ARTIFACT], facts.get(STORE))
    return None


def _facts(application: Mapping[str, Any], deployment: str) -> Mapping[str, Any]:
    """Return the ``user_config`` of a deployment; empty if there is none yet."""
    details = application["deployments"].get(deployment) or {}
    config = details.get("deployment_config") or {}
    return config.get("user_config") or {}


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
    is_classifier = bool(manifest.labels) and manifest.outputs[0].item_shape == (
        len(manifest.labels),
    )
    return Contract(
        inputs=manifest.inputs,
        outputs=manifest.outputs,
        labels=manifest.labels,
        scores=Scores.LOGITS if is_classifier else Scores.NONE,
        max_items=max_items,
    )

"""Models that a Serve cluster is to run, from Serve's details.

Serve's details → the args of each model's application and the artifact that it was bound to
    → DeployedModel
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cluster.artifact.references import may_stand_for
from cluster.config.serving import ModelArgs
from cluster.errors import ClusterError
from deployments.config import serve_config
from deployments.ray.controller import serve_details
from deployments.ray.names import ARGS, ARTIFACT, MODEL_DEPLOYMENT_PREFIX, STORE


@dataclass(frozen=True)
class DeployedModel:
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


def deployed_models() -> list[DeployedModel]:
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


def deployed_model(application: Mapping[str, Any]) -> DeployedModel | None:
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
            return DeployedModel(args)  # not deployed yet, or its args name another artifact by now
        return DeployedModel(args, artifact, facts.get(STORE))
    for name in application["deployments"]:
        facts = _facts(application, name)
        if name.startswith(MODEL_DEPLOYMENT_PREFIX) and ARGS in facts:
            args = serve_config.model_args(facts[ARGS], application["name"])
            return DeployedModel(args, facts[ARTIFACT], facts.get(STORE))
    return None


def _facts(application: Mapping[str, Any], deployment: str) -> Mapping[str, Any]:
    """Return the ``user_config`` of a deployment; empty before Serve has one."""
    details = application["deployments"].get(deployment) or {}
    config = details.get("deployment_config") or {}
    return config.get("user_config") or {}

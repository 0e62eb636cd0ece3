"""Artifacts that a cluster serves, and whether a newer build has the same name.

Serve's details → each model's artifact and the store it was bound in → that store → ServedArtifact
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from cluster.artifact.lookup import absolute
from cluster.artifact.store import default_store, open_store
from cluster.errors import ArtifactError, ClusterError, ConfigError
from deployments.config.deployed import deployed_model
from deployments.local import LocalCluster
from deployments.local.rest import Dashboard
from deployments.ray.dashboard import dashboard_url

_ADDRESSES = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")
_TOKEN_PATH = "~/.ray/auth_token"


@dataclass(frozen=True)
class ServedArtifact:
    """The artifact of one deployed model."""

    model: str
    artifact: str
    id: str
    store: str
    """Store in which the deployment found the artifact, and in which a newer one is looked for."""

    newest_id: str | None
    """Id that the name stands for in the store now; None if it is not a store of this machine."""

    @property
    def moved_on(self) -> bool:
        """Whether the name stands for another artifact now."""
        return self.newest_id not in (None, self.id)

    @property
    def verdict(self) -> str:
        """Return ``yes``, ``unknown``, or the newest id with the command that deploys it."""
        if self.newest_id is None:
            return "unknown: this machine has no such store with this artifact"
        if not self.moved_on:
            return "yes"
        return f"no: the newest is {self.newest_id[:12]}; run `headrace up CONFIG`"


def dashboard() -> Dashboard:
    """Return the dashboard of the local cluster, else of the one that the environment names.

    Sets this process's environment, so that Ray's clients use the same cluster. ClusterError
    without a cluster.
    """
    running = LocalCluster.running()
    if running is not None:
        os.environ.update(running.environment())
        return Dashboard(running.dashboard, running.record.token_path)
    if not any(os.environ.get(variable) for variable in _ADDRESSES):
        raise ClusterError(
            f"no local cluster is running, and {' or '.join(_ADDRESSES)} is not set; run "
            "`headrace up`, or set it"
        )
    token = os.environ.get("RAY_AUTH_TOKEN_PATH") or _TOKEN_PATH
    return Dashboard(dashboard_url(), Path(token).expanduser())


def served_artifacts(dashboard: Dashboard) -> list[ServedArtifact]:
    """Return the deployed models of a cluster by name. ClusterError if it does not answer."""
    models = []
    for application in dashboard.applications().values():
        try:
            model = deployed_model(application)
        except ConfigError:
            continue  # refused by its builder: it serves nothing
        if model is not None and model.artifact is not None:
            artifact, _, artifact_id = model.artifact.rpartition("@")
            # The second for a deployment of an earlier release, whose store was not recorded.
            store = absolute(model.store or model.args.store or default_store())
            newest = _newest(store, artifact, artifact_id)
            models.append(ServedArtifact(model.name, artifact, artifact_id, store, newest))
    return sorted(models, key=lambda model: model.model)


def _newest(location: str, name: str, served_id: str) -> str | None:
    """Return the id of a name in a store; None if the store cannot be read from this machine.

    The same path can be another store here than on the cluster: one without the served artifact.
    """
    try:
        store = open_store(location)
        store.find(served_id)
        return store.find(name)
    except (ArtifactError, ConfigError, OSError):
        return None

"""Artifacts that a cluster serves, and whether a newer build has the same name.

Serve's details → each model's args and the artifact it was bound to → its store → ServedArtifact
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from cluster.artifact.store import open_store
from cluster.errors import ArtifactError, ClusterError, ConfigError
from deployments.local import LocalCluster
from deployments.local.rest import Dashboard
from deployments.ray.dashboard import dashboard_url
from deployments.router.plan import deployed_model

_ADDRESSES = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")
_TOKEN_PATH = "~/.ray/auth_token"


@dataclass(frozen=True)
class ServedArtifact:
    """The artifact of one deployed model."""

    model: str
    artifact: str
    id: str
    newest_id: str | None
    """Id that the name stands for in the store now; None if the store cannot be read."""

    @property
    def moved_on(self) -> bool:
        """Whether the name stands for another artifact now."""
        return self.newest_id not in (None, self.id)

    @property
    def verdict(self) -> str:
        """Return ``yes``, ``unknown``, or the newest id with the command that deploys it."""
        if self.newest_id is None:
            return "unknown: this machine cannot read its store"
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
            newest = _newest(model.args.store, artifact)
            models.append(ServedArtifact(model.name, artifact, artifact_id, newest))
    return sorted(models, key=lambda model: model.model)


def _newest(store: str | None, name: str) -> str | None:
    try:
        return open_store(store).find(name)
    except (ArtifactError, ConfigError, OSError):
        return None

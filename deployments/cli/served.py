"""The artifacts that a cluster serves, and whether their names mean other artifacts by now.

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
from deployments.router.plan import deployed_model

_API_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_DASHBOARD_ADDRESS")
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
        """``yes``, ``unknown``, or the newer id with the command that deploys it."""
        if self.newest_id is None:
            return "unknown: its store cannot be read here"
        if not self.moved_on:
            return "yes"
        return f"no, {self.newest_id[:12]} is: deploy it with `headrace up CONFIG`"


def dashboard() -> Dashboard:
    """Return the dashboard of the local cluster, else of the cluster that the environment names.

    ClusterError without either.
    """
    running = LocalCluster.running()
    if running is not None:
        return Dashboard(running.dashboard, running.record.token_path)
    for variable in _API_VARIABLES:
        if url := os.environ.get(variable):
            token = os.environ.get("RAY_AUTH_TOKEN_PATH") or _TOKEN_PATH
            return Dashboard(url, Path(token).expanduser())
    raise ClusterError(
        f"no local cluster is running, and {' or '.join(_API_VARIABLES)} names no other; "
        "`headrace up` starts one"
    )


def served_models(dashboard: Dashboard) -> list[ServedArtifact]:
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

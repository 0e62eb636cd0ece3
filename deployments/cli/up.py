"""``headrace up``: a local cluster, and what it serves."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from cluster.artifact.served import BoundModel, bind, trusted_directory
from cluster.artifact.store import default_store
from cluster.config.base import read_yaml
from cluster.errors import ConfigError
from deployments.config import serve_config
from deployments.config.deployed import DeployedModel
from deployments.config.serve_config import ServeConfig
from deployments.http import keys
from deployments.local import LocalCluster, permissions
from deployments.local.cluster import HTTP_PORT
from deployments.ray.names import MODELS_PATH, version_of
from deployments.router.plan import plan_routes
from deployments.shards import placement


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``headrace up``."""
    parser.add_argument("config", type=Path, nargs="?", help="serve.yaml")


def run(args: argparse.Namespace) -> int:
    """Run the command with its parsed arguments and return the exit status."""
    return up(args.config)


def up(config: Path | None) -> int:
    """Start a local cluster, or take the running one, and deploy ``config`` to it.

    The names of artifacts are resolved here, and their ids are deployed: the same config after a
    rebuild is another deployment, which Serve upgrades replica by replica. A cluster that was
    started for a config which cannot be deployed is stopped.

    ConfigError if the config gives another port than the running cluster has, a route does not
    fit its models, others can read a file with secrets, the API keys are invalid, or a store
    cannot be read. ArtifactError for an artifact that is missing or not signed. Before a cluster
    starts, PlanError for a cut that this machine has no devices for or the artifact lacks.
    """
    checked = serve_config.check(config) if config is not None else None
    permissions.require_private_secrets(os.environ)
    keys.configured()
    trusted_directory()
    for args in checked.models if checked is not None else ():
        permissions.require_readable(args.store, f"{config}: model {args.name}")
    port = checked.port if checked is not None else None
    running = LocalCluster.running()
    if running is not None and port not in (None, running.record.http_port):
        raise ConfigError(
            f"{config}: http_options.port: the local cluster that runs already has port "
            f"{running.record.http_port} (given: {port}); give that, or `headrace down` first"
        )
    models = _bound(checked)
    if running is None:
        for model in models:
            placement.require_room_here(model)
    if checked is not None and checked.router is not None:
        deployed = [DeployedModel(model.args, model.reference) for model in models]
        plan_routes(checked.router, deployed)
    cluster = running or LocalCluster.start(http_port=port or HTTP_PORT)
    if config is not None:
        pinned = serve_config.pin_artifacts(
            read_yaml(config), {model.name: model for model in models}
        )
        try:
            cluster.deploy_config(pinned, str(config))
        except BaseException:  # also when interrupted
            if running is None:
                cluster.stop()
            raise
    for model in models:
        artifact = f"{model.manifest.name}@{version_of(model.artifact_id)}"
        print(f"{model.name:<20} {cluster.http}{MODELS_PATH}{model.name}  {artifact}")
    for route in checked.router.routes if checked is not None and checked.router else ():
        print(f"{route.name:<20} {cluster.http}{MODELS_PATH}{route.name}")
    print(f"{'dashboard':<20} {cluster.dashboard}")
    print("\nFor `ray`, `serve` and jobs in this shell:")
    for name, value in cluster.environment().items():
        print(f"  export {name}={value}")
    print("Stop everything with `headrace down`.")
    return 0


def _bound(checked: ServeConfig | None) -> list[BoundModel]:
    """Bind the models of a config to their artifacts, and to the store of this environment."""
    if checked is None:
        return []
    store = default_store()
    return [
        bind(model if model.store else model.model_copy(update={"store": store}))
        for model in checked.models
    ]

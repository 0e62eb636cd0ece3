"""``headrace up`` and ``headrace down``: the local cluster and what it serves."""

from __future__ import annotations

import os
from pathlib import Path

from cluster.artifact.served import open_served, trusted_directory
from cluster.errors import ConfigError
from deployments.cli.job_cluster import stop_job_clusters
from deployments.config import serve_config
from deployments.http import auth
from deployments.local import LocalCluster, permissions
from deployments.local.cluster import HTTP_PORT
from deployments.router import plan
from deployments.shards import placement


def up(config: Path | None) -> int:
    """Start a local cluster, or take the one that runs, and deploy ``config`` to it.

    A cluster that was started for a config which cannot be deployed is stopped. ConfigError if
    the config asks for another port than the running cluster has, or a route does not fit its
    models, others can read a file with secrets, the API keys are none, or a store cannot be read;
    and, before a cluster starts, PlanError for a cut that this machine has no devices for or the
    artifact does not hold, and ArtifactError for one that is not there, or not signed.
    """
    checked = serve_config.check(config) if config is not None else None
    permissions.require_private_secrets(os.environ)
    auth.configured()
    trusted_directory()
    for model in checked.models if checked is not None else ():
        permissions.require_readable(model.store, f"{config}: model {model.name}")
    port = checked.port if checked is not None else None
    running = LocalCluster.running()
    if running is not None and port not in (None, running.record.http_port):
        raise ConfigError(
            f"{config}: http_options.port: the local cluster that runs already has port "
            f"{running.record.http_port} (given: {port}); give that, or `headrace down` first"
        )
    if running is None and checked is not None:
        for model in checked.models:
            open_served(model)
            placement.require_room_here(model)
    if checked is not None and checked.router is not None:
        plan.planned(checked.router, checked.models)
    cluster = running or LocalCluster.start(http_port=port or HTTP_PORT)
    if config is not None:
        try:
            cluster.deploy(config)
        except BaseException:  # also when interrupted
            if running is None:
                cluster.stop()
            raise
    names = [model.name for model in checked.models] if checked is not None else []
    if checked is not None and checked.router is not None:
        names += [route.name for route in checked.router.routes]
    for name in names:
        print(f"{name:<20} {cluster.http}{serve_config.ROUTE}{name}")
    print(f"{'dashboard':<20} {cluster.dashboard}")
    print("\nFor `ray`, `serve` and jobs in this shell:")
    for name, value in cluster.environment().items():
        print(f"  export {name}={value}")
    print("Stop everything with `headrace down`.")
    return 0


def down() -> int:
    """Stop the local cluster and those of jobs, with everything that belongs to them."""
    stopped = [LocalCluster.stop_recorded(), stop_job_clusters()]
    print("stopped" if any(stopped) else "no local cluster is running")
    return 0

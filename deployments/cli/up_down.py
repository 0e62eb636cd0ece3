"""``headrace up`` and ``headrace down``: the local cluster and what it serves."""

from __future__ import annotations

from pathlib import Path

from cluster.config.base import read_yaml
from deployments import serve_config
from deployments.local import LocalCluster
from deployments.local.cluster import HTTP_PORT


def up(config: Path | None) -> int:
    """Start a local cluster, or take the one that runs, and deploy ``config`` to it."""
    port = HTTP_PORT
    models = []
    if config is not None:
        models = serve_config.check(config)
        port = (read_yaml(config).get("http_options") or {}).get("port", HTTP_PORT)
    cluster = LocalCluster.running()
    if cluster is None:
        cluster = LocalCluster.start(http_port=port)
    if config is not None:
        cluster.deploy(config)
    for model in models:
        print(f"{model.name:<20} {cluster.http}{serve_config.ROUTE}{model.name}")
    print(f"{'dashboard':<20} {cluster.dashboard}")
    print("\nFor `ray`, `serve` and jobs in this shell:")
    for name, value in cluster.environment().items():
        print(f"  export {name}={value}")
    print("Stop everything with `headrace down`.")
    return 0


def down() -> int:
    """Stop the local cluster and everything that belongs to it."""
    print("stopped" if LocalCluster.stop_recorded() else "no local cluster is running")
    return 0

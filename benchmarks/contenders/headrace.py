"""Headrace as an operator deploys it: a local cluster with models and routes."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from benchmarks.artifacts.program import COMPUTE_THREADS
from benchmarks.contenders import process_facts
from benchmarks.contenders.contender import Endpoint, Server
from benchmarks.harness.errors import BenchmarkError
from cluster.artifact.store import default_store
from cluster.config.plain_yaml import format_yaml
from cluster.protocol.binary_tensor import HEADER_LENGTH
from deployments.local import LocalCluster, processes
from deployments.local.ports import free_ports

_STATE_DIR = Path("~/.headrace/benchmark")
"""Equal in every run, so that a start also removes the remains of a killed run."""

_NAME = "resnet18"

SERVER = "server"
"""Application of the server's own paths and of the routes."""


def endpoint(port: int, name: str = _NAME) -> Endpoint:
    """Return the infer path of a model, for a request that is one raw tensor."""
    base = f"http://127.0.0.1:{port}{_prefix(name)}"
    # 0: no JSON in front of the tensor.
    headers = {"Content-Type": "application/octet-stream", HEADER_LENGTH: "0"}
    return Endpoint(f"{base}/infer", headers, f"{base}/ready")


def model_args(name: str, artifact_id: str, **changes: Any) -> dict[str, Any]:
    """Return the ModelArgs of an artifact on one compute thread, batches of 8 at most."""
    args = {
        "name": name,
        "artifact": artifact_id,
        "store": default_store(),
        "compute_threads": COMPUTE_THREADS,
        "batching": {"max_batch_size": 8},
    }
    return args | changes


@contextmanager
def start(artifact_id: str, port: int) -> Iterator[Server]:
    """Start a cluster on ``port`` and deploy the artifact; stop both on exit."""
    with running(port) as cluster:
        deploy(cluster, model_args(_NAME, artifact_id))
        record = cluster.record

        def require_alive() -> None:
            if LocalCluster.running(_STATE_DIR) is None:
                raise BenchmarkError("Headrace's cluster ended by itself")

        yield Server(
            mark=record.cluster_id,
            find=lambda: processes.find(record.cluster_id, record.run_dir),
            require_alive=require_alive,
        )


@contextmanager
def running(port: int, num_cpus: int | None = None) -> Iterator[LocalCluster]:
    """Start an empty cluster on ``port``; stop it on exit."""
    cluster = LocalCluster.start(
        http_port=port,
        dashboard_port=free_ports(1)[0],
        num_cpus=num_cpus,
        state_dir=_STATE_DIR,
    )
    try:
        yield cluster
    finally:
        cluster.stop()


def deploy(
    cluster: LocalCluster, *models: dict[str, Any], routes: Sequence[dict[str, Any]] = ()
) -> None:
    """Deploy models by their ModelArgs, routes over them, and the server's own paths.

    Returns when all of them are ready.
    """
    with tempfile.TemporaryDirectory(prefix="headrace-") as directory:
        config = Path(directory) / "serve.yaml"
        config.write_text(format_yaml(serve_config(*models, routes=routes)))
        cluster.deploy(config)


def serve_config(
    *models: dict[str, Any], routes: Sequence[dict[str, Any]] = ()
) -> dict[str, object]:
    """Return the Serve config of these ModelArgs and routes."""
    server: dict[str, Any] = {"name": SERVER, "route_prefix": "/v2"}
    server["import_path"] = "deployments.app:catalog"
    if routes:
        args = {"routes": list(routes), "store": default_store()}
        server |= {"route_prefix": "/", "import_path": "deployments.app:router", "args": args}
    applications = [
        {
            "name": model["name"],
            "route_prefix": _prefix(model["name"]),
            "import_path": "deployments.app:model",
            "args": model,
        }
        for model in models
    ]
    return {"applications": [server, *applications]}


def replicas(cluster: LocalCluster, application: str) -> list[int]:
    """Return the process ids of an application's replicas."""
    title = f"ray::ServeReplica:{application}:"
    record = cluster.record
    pids = []
    for process in processes.find(record.cluster_id, record.run_dir):
        with contextlib.suppress(psutil.Error):  # it ended meanwhile
            if process_facts.command(process.pid).startswith(title):
                pids.append(process.pid)
    return pids


def _prefix(name: str) -> str:
    return f"/v2/models/{name}"

"""Environment variables of a local cluster's processes, and of its clients.

Ray and Serve read most settings from the environment of the process that uses them. Variables of
``ray start`` reach the controller, HAProxy, the replicas and the jobs, because each inherits them
from the raylet.
"""

from __future__ import annotations

import os
from pathlib import Path

from deployments.local.processes import MARK
from deployments.local.record import ClusterRecord
from deployments.ray.environment import serving_environment
from deployments.ray.time_limits import PROXY_UPDATE_VARIABLE

PROXY_UPDATE_S = 5
"""Time in which the one HAProxy of a local cluster reloads without a replica that stops.

``headrace up`` again is a rolling upgrade. On two cores of an Intel Xeon with 15 to 20 other
runnable processes, a reload took 2 to 9 s; of the requests during six upgrades, 4 of 16,088 failed
with 1 s, and 0 of 17,944 with 5 s (2026-12-01). Serve's 30 s would delay every stop of a local
cluster."""

# Variables of a user's shell that would direct `ray start`, or a client, to another cluster.
_FOREIGN = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_DASHBOARD_ADDRESS", "RAY_AUTH_TOKEN")

# Ray's processes listen on loopback only, as on systems without support for several machines. With
# an explicit address, even 127.0.0.1, they would listen on every interface. A client must also use
# 127.0.0.1 as this machine's address, or it does not find the local node.
_ON_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


def cluster_environment(record: ClusterRecord) -> dict[str, str]:
    """Return the environment of ``ray start``: this process's, with the cluster's settings.

    Raises :class:`ConfigError` if the maximum request timeout in the environment is no number.
    """
    files = record.haproxy_dir
    inherited = {name: value for name, value in os.environ.items() if name not in _FOREIGN}
    default = {PROXY_UPDATE_VARIABLE: str(PROXY_UPDATE_S)}
    shared = default | inherited | serving_environment()
    return shared | {
        # Inherited by every process of the cluster, so that stop() finds them.
        MARK: record.cluster_id,
        # Temporary files of a killed process are removed with the run directory.
        "TMPDIR": str(record.temporary_dir),
        # Access to the dashboard or the GCS allows running code, so it requires the token.
        **_token(record.token_path),
        **_ON_LOOPBACK,
        # HAProxy's files are in a directory of this cluster that only this user can access,
        # because Ray makes the control socket accessible to all users.
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(files / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(files / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(files / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(files),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(files / "server-state"),
        # Serve's defaults are fixed ports, so that two clusters would conflict.
        "RAY_SERVE_HAPROXY_STATS_PORT": str(record.stats_port),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(record.metrics_port),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(record.fallback_port),
    }


def client_environment(record: ClusterRecord, gcs: str) -> dict[str, str]:
    """Return the variables of a client of the cluster at ``gcs``."""
    return {
        "RAY_ADDRESS": gcs,
        "RAY_API_SERVER_ADDRESS": record.dashboard,
        "RAY_DASHBOARD_ADDRESS": record.dashboard,
        **_ON_LOOPBACK,
        **_token(record.token_path),
    }


def _token(path: Path) -> dict[str, str]:
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(path)}

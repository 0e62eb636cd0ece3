"""Every environment variable a local cluster's processes run with, and those of its clients.

Ray and Serve read most of their settings from the environment of the process that reads them:
what is set where ``ray start`` runs reaches the controller, HAProxy, the replicas and the jobs,
because each inherits it from the raylet.
"""

from __future__ import annotations

import os
from pathlib import Path

from deployments.local.processes import MARK
from deployments.local.record import Record
from deployments.ray.environment import serving_environment

_DRAIN_S = 1.0  # 30 by default, which a stopping local cluster would wait out

# What a user's shell may hold that would send `ray start`, or a client, elsewhere.
_FOREIGN = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_DASHBOARD_ADDRESS", "RAY_AUTH_TOKEN")

# Ray's processes listen on loopback alone, as they do on systems where Ray makes no cluster of
# several machines. Given an address, 127.0.0.1 included, they would listen on every interface.
# A client, too, must take 127.0.0.1 for this machine's address, or it finds no node of its own.
_ON_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


def cluster_environment(record: Record) -> dict[str, str]:
    """The whole environment to run ``ray start`` in: this process's, and the cluster's settings.

    Raises :class:`ConfigError` if the maximum request timeout in the environment is no number.
    """
    files = record.haproxy_dir
    inherited = {name: value for name, value in os.environ.items() if name not in _FOREIGN}
    shared = inherited | serving_environment()
    return shared | {
        # Inherited by everything the cluster ever starts: how stop() finds it all.
        MARK: record.cluster_id,
        # Temporary files of a process that is killed go with the run directory.
        "TMPDIR": str(record.temporary_dir),
        # Whoever reaches the dashboard or the GCS can run code: only with the token.
        **_token(record.token_path),
        **_ON_LOOPBACK,
        # All of HAProxy's files apart from any other cluster's, where only this user can reach
        # its control socket, which Ray opens to everybody.
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(files / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(files / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(files / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(files),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(files / "server-state"),
        # Fixed numbers by default, of which a machine has one each.
        "RAY_SERVE_HAPROXY_STATS_PORT": str(record.stats_port),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(record.metrics_port),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(record.fallback_port),
        # There is no traffic to protect while a local cluster stops.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": str(_DRAIN_S),
    }


def client_environment(record: Record, gcs: str) -> dict[str, str]:
    """What a client process must have set to reach the cluster at ``gcs``, and no other."""
    return {
        "RAY_ADDRESS": gcs,
        "RAY_API_SERVER_ADDRESS": record.dashboard,
        "RAY_DASHBOARD_ADDRESS": record.dashboard,
        **_ON_LOOPBACK,
        **_token(record.token_path),
    }


def _token(path: Path) -> dict[str, str]:
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(path)}

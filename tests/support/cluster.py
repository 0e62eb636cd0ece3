"""Ray cluster on this machine, started on free ports and stopped with all its processes.

running(state_dir) ─→ start ─→ LocalCluster ─→ block ─→ stop
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from deployments.local import LocalCluster, ports
from deployments.ray.time_limits import PROXY_UPDATE_VARIABLE


def start(state_dir: Path, *, cpus: int, http_port: int | None = None) -> LocalCluster:
    """Start a cluster of ``cpus`` CPUs; the caller stops it.

    Its replicas stop after a second, unless the environment has another time.
    """
    free_http_port, dashboard_port = ports.free_ports(2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(PROXY_UPDATE_VARIABLE, os.environ.get(PROXY_UPDATE_VARIABLE, "1"))
        return LocalCluster.start(
            http_port=http_port or free_http_port,
            dashboard_port=dashboard_port,
            num_cpus=cpus,
            state_dir=state_dir,
        )


@contextmanager
def running(
    state_dir: Path, *, cpus: int, prepend_path: Path | None = None, **environment: str
) -> Iterator[LocalCluster]:
    """Run a cluster inside the block.

    ``environment``: variables that all its processes inherit. ``prepend_path``: a directory from
    which they can import modules.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        if prepend_path is not None:
            patch.setenv("PYTHONPATH", str(prepend_path), prepend=":")
        cluster = start(state_dir, cpus=cpus)
    try:
        yield cluster
    finally:
        cluster.stop()

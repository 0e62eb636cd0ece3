"""A Ray cluster on this machine, for modules that have no need of another."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from deployments.local import LocalCluster, ports


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """Of 4 CPUs; a module's own."""
    http_port, dashboard_port = ports.free_ports(2)
    started = LocalCluster.start(
        http_port=http_port,
        dashboard_port=dashboard_port,
        num_cpus=4,
        state_dir=tmp_path_factory.mktemp("ray") / "state",
    )
    try:
        yield started
    finally:
        started.stop()

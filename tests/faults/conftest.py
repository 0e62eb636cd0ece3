"""A cluster to break: short deadlines, and configs written as the tests need them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from deployments.local import LocalCluster, ports
from deployments.request_guard import MAX_REQUEST_TIMEOUT_VARIABLE

WriteConfig = Callable[..., Path]

MAX_REQUEST_TIMEOUT_S = 2
"""So that what is never answered is given up soon, by HAProxy 5 s later."""


@pytest.fixture(scope="package")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    http_port, dashboard_port = ports.free_ports(2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(MAX_REQUEST_TIMEOUT_VARIABLE, str(MAX_REQUEST_TIMEOUT_S))
        started = LocalCluster.start(
            http_port=http_port,
            dashboard_port=dashboard_port,
            num_cpus=6,
            state_dir=tmp_path_factory.mktemp("faults") / "state",
        )
    try:
        yield started
    finally:
        started.stop()


@pytest.fixture
def write_config(tmp_path: Path) -> WriteConfig:
    """Writes a Serve config with the models of the given args; returns its path."""

    def write(*models: dict[str, Any]) -> Path:
        applications = [
            {
                "name": str(args["name"]),
                "route_prefix": f"/v2/models/{args['name']}",
                "import_path": "deployments.app:model",
                "args": args,
            }
            for args in models
        ]
        path = tmp_path / "serve.yaml"
        path.write_text(yaml.safe_dump({"applications": applications}))
        return path

    return write

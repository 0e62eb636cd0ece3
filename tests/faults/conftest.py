"""Cluster for fault tests: short deadlines, and Serve configs of the tests' models.

signing_key ─→ cluster (trusts the key) ─→ test breaks something ─→ nothing_is_left checks
write_config ─→ Serve config ───────────────↗
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import serve_config
from support.cluster import running
from support.http_client import ask
from support.leftovers import left_behind, read_process, wait_for_nothing_left

from cluster.artifact.served import TRUSTED_KEYS
from deployments.local import LocalCluster, processes, rest
from deployments.ray.time_limits import MAX_REQUEST_TIMEOUT_VARIABLE

WriteConfig = Callable[..., Path]

MAX_REQUEST_TIMEOUT_S = 2
"""Deadline in seconds. Short, so that an unanswered request ends soon, by HAProxy 5 s later."""


@pytest.fixture(scope="package")
def signing_key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a private key; its directory ``trusted`` holds only the public key."""
    directory = tmp_path_factory.mktemp("keys")
    key = directory / "key.pem"
    (directory / "trusted").mkdir()
    public = directory / "trusted" / "key.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", key], check=True)
    key.chmod(0o600)
    subprocess.run(["openssl", "pkey", "-in", key, "-pubout", "-out", public], check=True)
    return key


@pytest.fixture(scope="package")
def cluster(tmp_path_factory: pytest.TempPathFactory, signing_key: Path) -> Iterator[LocalCluster]:
    environment = {
        MAX_REQUEST_TIMEOUT_VARIABLE: str(MAX_REQUEST_TIMEOUT_S),
        TRUSTED_KEYS: str(signing_key.with_name("trusted")),
    }
    state_dir = tmp_path_factory.mktemp("faults") / "state"
    here = Path(__file__).parent
    with running(state_dir, cpus=6, prepend_path=here, **environment) as started:
        yield started


@pytest.fixture(autouse=True)
def nothing_is_left(cluster: LocalCluster) -> Iterator[None]:
    """Check after every test that no process, actor or placement group is orphaned."""
    yield
    wait_for_nothing_left(lambda: _left(cluster))


def _left(cluster: LocalCluster) -> list[str]:
    handles = processes.find(cluster.record.cluster_id, cluster.record.run_dir)
    running = [read_process(handle.pid, "here") for handle in handles]
    actors = [row | {"node": "here"} for row in _listed(cluster, "actors")]
    return left_behind(
        rest.Dashboard(cluster.dashboard, cluster.record.token_path).applications(),
        actors,
        _listed(cluster, "placement_groups"),
        [process for process in running if process is not None],
    )


def _listed(cluster: LocalCluster, kind: str) -> list[dict[str, Any]]:
    url = f"{cluster.dashboard}/api/v0/{kind}?limit=10000&detail=1"
    token = cluster.record.token_path.read_text()
    answer = ask(url, headers={"Authorization": f"Bearer {token}"})
    return answer.json["data"]["result"]["result"]


@pytest.fixture
def write_config(tmp_path: Path) -> WriteConfig:
    """Return ``write(*models)``, which writes a Serve config of these args and returns its path."""

    def write(*models: dict[str, Any]) -> Path:
        return serve_config.write(tmp_path, *(serve_config.model(**args) for args in models))

    return write

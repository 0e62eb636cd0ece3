"""Ray's own TLS between nodes, as docs/security.md sets it up: no certificate, no connection."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cluster import running

from deployments.local import LocalCluster

pytestmark = pytest.mark.slow

DRIVER = "import ray; ray.init(log_to_driver=False); print(ray.cluster_resources()['CPU'])"


def openssl(directory: Path, command: str) -> None:
    subprocess.run(["openssl", *command.split()], cwd=directory, capture_output=True, check=True)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create a CA, and a node's key and certificate, with the commands of docs/security.md."""
    directory = tmp_path_factory.mktemp("tls")
    text = (Path(__file__).parents[3] / "docs" / "security.md").read_text()
    (block,) = [block for block in text.split("```") if block.startswith("sh\nopenssl req -x509")]
    for line in block.removeprefix("sh\n").replace("\\\n", "").splitlines():
        if line.startswith("openssl "):
            openssl(directory, line.removeprefix("openssl ").replace("NODE_IP", "127.0.0.1"))
        elif line.startswith("printf "):
            subprocess.run(
                line.replace("NODE_IP", "127.0.0.1"), shell=True, cwd=directory, check=True
            )
    return directory


@pytest.fixture(scope="module")
def environment(certificates: Path) -> dict[str, str]:
    return {
        "RAY_USE_TLS": "1",
        "RAY_TLS_SERVER_CERT": str(certificates / "node.crt"),
        "RAY_TLS_SERVER_KEY": str(certificates / "node.key"),
        "RAY_TLS_CA_CERT": str(certificates / "ca.crt"),
    }


@pytest.fixture(scope="module")
def cluster(
    environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalCluster]:
    state_dir = tmp_path_factory.mktemp("tls-cluster") / "state"
    with running(state_dir, cpus=3, **environment) as started:
        yield started


def drive(cluster: LocalCluster, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", DRIVER],
        env={
            **os.environ,
            **cluster.environment(),
            **environment,
            "RAY_gcs_rpc_server_connect_timeout_s": "2",
            "RAY_gcs_rpc_server_reconnect_timeout_s": "3",
        },
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


def test_driver_with_certificate_and_token_connects(
    cluster: LocalCluster, environment: dict[str, str]
) -> None:
    done = drive(cluster, environment)
    assert done.stdout.strip() == "3.0", done


def test_driver_with_token_but_without_tls_is_rejected(cluster: LocalCluster) -> None:
    done = drive(cluster, {})
    assert done.returncode != 0
    assert done.stdout == ""


def test_client_without_certificate_of_ca_is_rejected(
    cluster: LocalCluster, certificates: Path
) -> None:
    def greeted(name: str | None) -> bool:
        """Whether the GCS says anything to a client with that certificate."""
        context = ssl.create_default_context(cafile=certificates / "ca.crt")
        context.set_alpn_protocols(["h2"])
        if name is not None:
            context.load_cert_chain(certificates / f"{name}.crt", certificates / f"{name}.key")
        address = ("127.0.0.1", cluster.record.gcs_port)
        try:
            with (
                socket.create_connection(address, timeout=10) as raw,
                context.wrap_socket(raw, server_hostname="127.0.0.1") as secure,
            ):
                return secure.recv(1) != b""
        except (ssl.SSLError, ConnectionError):
            return False

    foreign = "req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=x -keyout x.key -out x.crt"
    openssl(certificates, foreign)
    assert not greeted(None)
    assert not greeted("x")
    assert greeted("node")

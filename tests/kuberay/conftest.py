"""Head as KubeRay starts it, with manifests from `headrace k8s render`."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from operator_calls import Operator, service_config
from support.cluster import start

from deployments.cli.main import main
from deployments.local import ports

SERVE_PORT = 8000
"""Serve's default port: KubeRay's config names none."""


@pytest.fixture(scope="package")
def serve_config(int8_artifact_store: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the ``serveConfigV2`` of a RayService for ``tiny-int8`` in this machine's store."""
    if shutil.which("kubectl") is None and shutil.which("kustomize") is None:
        pytest.skip("neither kubectl nor kustomize is installed")
    manifests = tmp_path_factory.mktemp("manifests")
    status = main(
        [
            *("k8s", "render", "--model", "tiny-int8", "--name", "tiny"),
            *("--image", "headrace-serving:test", "--store", str(int8_artifact_store)),
            *("--out", str(manifests)),
        ]
    )
    assert status == 0
    return service_config(manifests)


@pytest.fixture
def operator(
    tmp_path: Path, int8_artifact_store: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Operator]:
    monkeypatch.setenv("HEADRACE_STORE", str(int8_artifact_store))
    ports.require_free(SERVE_PORT, "HTTP")
    operator = Operator(start(tmp_path / "state", cpus=4, http_port=SERVE_PORT))
    try:
        yield operator
    finally:
        operator.cluster.stop()

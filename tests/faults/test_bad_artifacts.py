"""Artifacts that must not be served: changed on disk, compiled for another CPU, or absent."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest
from support.wait import WITHIN_S, until

from cluster.artifact.artifact import MANIFEST
from cluster.artifact.local import LocalStore
from cluster.artifact.manifest import content_id
from cluster.errors import ClusterError
from deployments.local import LocalCluster
from deployments.local.rest import Dashboard


def copy_store(store: Path, to: Path) -> Path:
    """Copy the store; return the directory of the copy's artifact ``tiny-int8``."""
    shutil.copytree(store, to)
    return LocalStore(to).open("tiny-int8").path


def flip_a_byte(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def require_another_cpu(artifact: Path) -> None:
    """Change the CPU features that the artifact requires, and its id: its hashes stay valid."""
    manifest = json.loads((artifact / MANIFEST).read_text())
    for program in manifest["programs"]:
        program["cpu_features"] += ["avx1024", "amx_fp4"]
    text = json.dumps(manifest).encode()
    (artifact / MANIFEST).write_bytes(text)
    artifact.rename(artifact.with_name(content_id(text)))
    (artifact.parents[1] / "names" / "tiny-int8").write_text(content_id(text))


@pytest.mark.slow
@pytest.mark.fault("a file or the manifest of an artifact is changed")
def test_bad_artifact_is_not_served_and_reason_is_reported(
    cluster: LocalCluster,
    int8_artifact_store: Path,
    write_config: Callable[..., Path],
    tmp_path: Path,
) -> None:
    manifest = LocalStore(int8_artifact_store).open("tiny-int8").manifest
    fastest = {entry.key: entry for entry in manifest.programs}
    loaded = fastest[f"cpu-x86/{manifest.fastest['cpu-x86']}"].file
    changed = copy_store(int8_artifact_store, tmp_path / "changed")
    right = sha256((changed / loaded).read_bytes()).hexdigest()
    flip_a_byte(changed / loaded)
    wrong = sha256((changed / loaded).read_bytes()).hexdigest()
    forged = copy_store(int8_artifact_store, tmp_path / "forged")
    (forged / MANIFEST).write_bytes((forged / MANIFEST).read_bytes() + b" ")
    require_another_cpu(copy_store(int8_artifact_store, tmp_path / "foreign"))
    expected = {
        "changed": f"{changed / loaded}: sha256 is {wrong}, the manifest names {right}",
        "forged": f"{forged / MANIFEST}: sha256 is ",
        "foreign": f"{loaded}: its code uses amx_fp4, avx1024, which this CPU lacks",
        "absent": "no artifact 'tiny-int9' in the store",
        "wrong": "args: batching.max_batch_size: Input should be greater than or equal to 1",
    }
    models = [
        {"name": name, "store": str(tmp_path / name), "artifact": "tiny-int8"}
        for name in ("changed", "forged", "foreign")
    ]
    absent = {"name": "absent", "store": str(int8_artifact_store), "artifact": "tiny-int9"}
    wrong_args = {"name": "wrong", "artifact": "tiny-int8", "batching": {"max_batch_size": 0}}
    with pytest.raises(ClusterError, match="failed:"):
        cluster.deploy(write_config(*models, absent, wrong_args), timeout_s=WITHIN_S)

    details = wait_for_failures(cluster, len(expected))
    for name, message in expected.items():
        assert message in details[name], (name, details[name])
    assert re.search(r"names there: [\w, -]*tiny-int8", details["absent"])


def wait_for_failures(cluster: LocalCluster, count: int) -> dict[str, str]:
    """Wait until ``count`` applications have failed; return Serve's details of each, as JSON."""
    dashboard = Dashboard(cluster.record.dashboard, cluster.record.token_path)

    def statuses() -> list[str]:
        return [application["status"] for application in dashboard.applications().values()]

    # A deployment fails after its replicas have failed three times, with a backoff in between.
    until(lambda: statuses().count("DEPLOY_FAILED") == count, statuses)
    applications = dashboard.applications()
    return {name: json.dumps(application) for name, application in applications.items()}

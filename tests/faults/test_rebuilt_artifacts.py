"""Rebuild under the name of a served artifact: one deployment serves one artifact."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from support.http_client import ask
from support.titles import replica_pids
from support.wait import WITHIN_S, until

from cluster.artifact.artifact import MANIFEST, Artifact
from cluster.artifact.local import LocalStore
from cluster.artifact.served import bind
from cluster.config.serving import ModelArgs
from cluster.errors import ClusterError
from deployments.config import serve_config
from deployments.local import LocalCluster

REQUESTS = 60


@pytest.fixture
def store(tmp_path: Path, int8_artifact_store: Path) -> LocalStore:
    """Return a copy of the store, in which the test may replace the newest ``tiny-int8``."""
    shutil.copytree(int8_artifact_store, tmp_path / "store")
    return LocalStore(tmp_path / "store")


def rebuild(store: LocalStore, tmp_path: Path) -> Artifact:
    """Publish another artifact under the same name: the same files, another build."""
    before = store.open("tiny-int8")
    finished = tmp_path / "rebuilt"
    shutil.copytree(before.path, finished)
    manifest = json.loads((finished / MANIFEST).read_text())
    manifest["recipe_key"] = "0" * 64
    (finished / MANIFEST).write_text(json.dumps(manifest))
    return store.publish(finished)


def served(cluster: LocalCluster) -> set[str]:
    """Return the artifacts that the replicas answer with."""
    url = f"{cluster.http}/v2/models/tiny"
    answers = [ask(url) for _ in range(REQUESTS)]
    assert {answer.status for answer in answers} == {200}
    return {answer.json["artifact"] for answer in answers}


@pytest.mark.fault("an artifact is rebuilt under its name, and a replica is killed")
def test_new_replica_serves_the_bound_artifact_after_rebuild(
    cluster: LocalCluster, store: LocalStore, tmp_path: Path, write_config: Callable[..., Path]
) -> None:
    args = {"name": "tiny", "artifact": "tiny-int8", "store": str(store.root), "replicas": 2}
    config = write_config(args)
    first = f"tiny-int8@{store.open('tiny-int8').id}"
    cluster.deploy(config, timeout_s=WITHIN_S)
    assert served(cluster) == {first}

    second = f"tiny-int8@{rebuild(store, tmp_path).id}"
    before = replica_pids(cluster, "tiny")
    assert len(before) == 2
    os.kill(min(before), signal.SIGKILL)
    until(lambda: len(replica_pids(cluster, "tiny") - {min(before)}) == 2)
    until(lambda: ask(f"{cluster.http}/v2/models/tiny").status == 200)
    assert served(cluster) == {first}

    # As `headrace up` deploys it: the same file now binds the new artifact, so Serve upgrades.
    model = bind(ModelArgs.model_validate(args))
    raw = yaml.safe_load(config.read_text())
    cluster.deploy_config(
        serve_config.pin_artifacts(raw, {"tiny": model}), "up", timeout_s=WITHIN_S
    )
    until(lambda: served(cluster) == {second}, passing=(AssertionError,))


@pytest.mark.slow
@pytest.mark.fault("an artifact is rebuilt, and a refused config is rolled back")
def test_rollback_after_rebuild_replaces_every_replica(
    cluster: LocalCluster, store: LocalStore, tmp_path: Path, write_config: Callable[..., Path]
) -> None:
    """Serve builds the first config again, with the version that it has for the old replicas."""
    args = {"name": "tiny", "artifact": "tiny-int8", "store": str(store.root), "replicas": 2}
    cluster.deploy(write_config(args), timeout_s=WITHIN_S)
    before = replica_pids(cluster, "tiny")
    second = f"tiny-int8@{rebuild(store, tmp_path).id}"
    with pytest.raises(ClusterError, match="no artifact 'missing'"):
        cluster.deploy(write_config({**args, "artifact": "missing"}), timeout_s=WITHIN_S)
    cluster.deploy(write_config(args), timeout_s=WITHIN_S)
    until(lambda: served(cluster) == {second}, passing=(AssertionError,))
    assert not replica_pids(cluster, "tiny") & before

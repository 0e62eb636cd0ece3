"""Contracts with what is private to Ray: one test for each call in ``deployments/ray``.

A new release of Ray is checked here first. Each test names the fields that the callers read.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from ray.serve._private import constants
from support.http_client import ask

from cluster.artifact.local import LocalStore
from deployments.local import LocalCluster
from deployments.ray.environment import network_environment, serving_environment
from deployments.ray.names import ARTIFACT

MODEL = "contract"
RAY = Path(ray.__file__).parent
OURS = {"HEADRACE_HAPROXY_LOOPBACK"}


@pytest.fixture(scope="module")
def facts(
    cluster: LocalCluster, int8_artifact_store: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """Results of the calls on a cluster that serves a model."""
    args = {"name": MODEL, "artifact": "tiny-int8", "store": str(int8_artifact_store)}
    application = {
        "name": MODEL,
        "route_prefix": f"/v2/models/{MODEL}",
        "import_path": "deployments.app:model",
        "args": args,
    }
    config = tmp_path_factory.mktemp("contract") / "serve.yaml"
    config.write_text(yaml.safe_dump({"applications": [application]}))
    cluster.deploy(config, timeout_s=180)
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("private_calls.py"))],
        env={**os.environ, **cluster.environment()},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    facts: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return facts


def test_details_name_config_artifact_and_replicas(
    facts: dict[str, Any], int8_artifact_store: Path
) -> None:
    application = facts["details"]["applications"][MODEL]
    config = application["deployed_app_config"]
    assert (config["import_path"], config["args"]["name"]) == ("deployments.app:model", MODEL)
    assert config["route_prefix"] == f"/v2/models/{MODEL}"
    deployment = application["deployments"][f"model-{MODEL}"]
    artifact = LocalStore(int8_artifact_store).open("tiny-int8")
    user_config = deployment["deployment_config"]["user_config"]
    assert user_config[ARTIFACT] == f"tiny-int8@{artifact.id}"
    assert deployment["target_num_replicas"] == 1
    assert [replica["state"] for replica in deployment["replicas"]] == ["RUNNING"]


def test_target_groups_lead_to_the_replica(facts: dict[str, Any]) -> None:
    (group,) = [g for g in facts["groups"] if g["route_prefix"] == f"/v2/models/{MODEL}"]
    assert group["protocol"].endswith("HTTP")
    ((_, port),) = group["targets"]
    assert ask(f"http://127.0.0.1:{port}/v2/models/{MODEL}").json["name"] == MODEL


def test_shared_names_are_those_not_forgotten(facts: dict[str, Any]) -> None:
    assert facts["shared_names"] == ["a b"]


def test_shared_secret_is_one_per_name(facts: dict[str, Any]) -> None:
    assert facts["secret"] == facts["secret_again"] != facts["other_secret"]
    assert len(bytes.fromhex(facts["secret"])) == 32


def test_session_directory_is_the_clusters(facts: dict[str, Any], cluster: LocalCluster) -> None:
    assert facts["is_session"]
    assert Path(facts["session"]).is_relative_to(cluster.record.ray_dir)


def test_gcs_knows_nodes_that_stay(facts: dict[str, Any]) -> None:
    assert facts["staying"] == [facts["this_node"]]
    assert facts["draining"] == []


def test_driver_is_no_replica(facts: dict[str, Any]) -> None:
    assert facts["application_name"] is None


@pytest.mark.parametrize("name", sorted({*serving_environment(), *network_environment()} - OURS))
def test_ray_reads_environment_variable(name: str) -> None:
    """Python reads a variable by its whole name, Ray's native code without the prefix."""
    if hasattr(constants, name):
        return
    folders = ("_private", "_common", "serve/_private")
    sources = [path for folder in folders for path in RAY.glob(f"{folder}/**/*.py")]
    in_python = any(name in path.read_text() for path in sources)
    native = name.removeprefix("RAY_").encode()
    assert in_python or native in (RAY / "core/src/ray/raylet/raylet").read_bytes()

"""Rules across objects, and the number of pods with a replica that a budget is compared with."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from overlay_objects import Objects, with_digests

from deployments.kubernetes import overlay, serving, validate

BUDGET = "PodDisruptionBudget/headrace-replicas: spec.minAvailable: must be under "


def of_kind(objects: Objects, kind: str) -> dict[str, Any]:
    (obj,) = [obj for obj in objects if obj["kind"] == kind]
    return obj


@pytest.mark.parametrize(
    ("name", "replicas", "least"),
    [
        ("ha/redis", 3, 2),
        ("ha/rocksdb", 3, 2),
        ("gpu", 2, 1),
        ("incremental-upgrade", 2, 1),
        ("kueue", 2, 1),
        ("cpu-dev", 1, None),
    ],
)
def test_overlay_budget_allows_a_drain_of_one_pod(
    overlays: dict[str, Objects], name: str, replicas: int, least: int | None
) -> None:
    service = of_kind(overlays[name], "RayService")["spec"]
    assert serving.pods_with_replicas(yaml.safe_load(service["serveConfigV2"])) == replicas
    budgets = [obj for obj in overlays[name] if obj["kind"] == "PodDisruptionBudget"]
    assert [obj["spec"]["minAvailable"] for obj in budgets] == ([] if least is None else [least])
    # There is a pod for each replica, and one more for the drain.
    assert sum(g["maxReplicas"] for g in service["rayClusterConfig"]["workerGroupSpecs"]) > replicas


def test_budget_that_blocks_drains_is_refused(overlays: dict[str, Objects]) -> None:
    objects = with_digests(overlays["ha/redis"])
    assert validate.problems(objects) == []
    budget = of_kind(objects, "PodDisruptionBudget")["spec"]
    budget["minAvailable"] = 3
    (line,) = validate.problems(objects)
    assert line.startswith(f"{BUDGET}3, the number of pods with a replica")
    assert "(given: 3); lower it, or raise the replicas in serveConfigV2" in line
    budget["minAvailable"] = 2
    # As many pods as before but two replicas: the third pod is never ready.
    service = of_kind(objects, "RayService")["spec"]
    service["serveConfigV2"] = service["serveConfigV2"].replace("replicas: 3", "replicas: 2")
    (line,) = validate.problems(objects)
    assert line.startswith(f"{BUDGET}2,")
    # A budget of other pods is not checked.
    budget["selector"]["matchLabels"] = {"app": "other"}
    assert validate.problems(objects) == []


def test_budget_without_autoscaler_counts_initial_pods(overlays: dict[str, Objects]) -> None:
    objects = with_digests(overlays["ha/redis"])
    ray = of_kind(objects, "RayService")["spec"]["rayClusterConfig"]
    ray["workerGroupSpecs"][0]["minReplicas"] = 0
    assert validate.problems(objects) == []
    ray["enableInTreeAutoscaling"] = False
    ray["workerGroupSpecs"][0]["replicas"] = 2
    (line,) = validate.problems(objects)
    assert line.startswith(f"{BUDGET}2,")


MODEL = {"import_path": "deployments.app:model", "name": "m", "route_prefix": "/v2/models/m"}


def model(args: dict[str, Any], **options: Any) -> dict[str, Any]:
    deployments = [{"name": "model-m", **options}] if options else []
    return {**MODEL, "args": {"name": "m", "artifact": "a", **args}, "deployments": deployments}


@pytest.mark.parametrize(
    ("application", "pods"),
    [
        (model({}), 1),
        (model({"replicas": 3}), 1),  # they may share a pod
        (model({"replicas": 3}, max_replicas_per_node=1), 3),
        (model({"replicas": 3}, max_replicas_per_node=2), 2),
        (model({"replicas": 3, "parallel": {"pipeline": 2}}), 3),  # a replica fills its pods
        (model({"autoscaling": {"max_replicas": 4}}, max_replicas_per_node=1), 1),
        (model({"autoscaling": {"min_replicas": 2}}, max_replicas_per_node=1), 2),
        (model({"autoscaling": {"min_replicas": 0}}, max_replicas_per_node=1), 0),
        # Options of the deployment take precedence.
        (model({"replicas": 3}, num_replicas=2, max_replicas_per_node=1), 2),
        (model({}, autoscaling_config={"min_replicas": 4}, max_replicas_per_node=1), 4),
        (model({"replicas": 2}, num_replicas="auto", max_replicas_per_node=1), 1),
        ({"import_path": "deployments.app:catalog", "name": "server"}, 1),
        ({"import_path": "deployments.app:router", "name": "router"}, 1),
        ({"import_path": "theirs:app", "name": "theirs"}, 0),
    ],
)
def test_serve_config_gives_minimum_of_pods_with_a_replica(
    application: dict[str, Any], pods: int
) -> None:
    assert serving.pods_with_replicas({"applications": [application]}) == pods


def test_missing_claim_of_ours_is_refused(kustomize: None) -> None:
    parts = overlay.k8s_dir() / "components"
    objects = overlay.build(
        overlay.k8s_dir() / "overlays" / "cpu-dev", [parts / "object-store", parts / "loader"]
    )
    (line,) = validate.problems(objects)
    assert line.startswith(
        "Job/headrace-loader: spec.template.spec.volumes[0]: claim headrace-artifacts does not"
    )
    # A foreign claim may be in the cluster already.
    job = of_kind(objects, "Job")["spec"]["template"]["spec"]
    job["volumes"][0]["persistentVolumeClaim"]["claimName"] = "mine"
    assert validate.problems(objects) == []


def test_ingress_with_incremental_upgrade_is_refused(kustomize: None) -> None:
    root = overlay.k8s_dir()
    ingress = [root / "components" / "ingress"]
    objects = overlay.build(root / "overlays" / "incremental-upgrade", ingress)
    (line,) = validate.problems(objects)
    assert line.startswith(
        "Ingress/headrace: leads to headrace-serve-svc, which stays with the old"
    )
    spec = of_kind(objects, "Ingress")["spec"]
    backend = spec["rules"][0]["http"]["paths"][0]["backend"]["service"]
    backend["name"] = "theirs"
    assert validate.problems(objects) == []
    spec["defaultBackend"] = {"service": {**backend, "name": "headrace-serve-svc"}}
    assert len(validate.problems(objects)) == 1

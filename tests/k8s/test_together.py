"""What is wrong with several objects together, and the pods that a budget is reckoned by."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import yaml
from test_rules import found

from deployments.kubernetes import overlay, serving, validate

Objects = list[dict[str, Any]]
BUDGET = "PodDisruptionBudget/headrace-replicas: spec.minAvailable: must be under "


def replaced(overlays: dict[str, Objects], name: str) -> Objects:
    """An overlay's objects, to be changed, its images by digest."""
    service = found(overlays, name, "RayService")
    return [service if o["kind"] == "RayService" else copy.deepcopy(o) for o in overlays[name]]


def of_kind(objects: Objects, kind: str) -> dict[str, Any]:
    (obj,) = [each for each in objects if each["kind"] == kind]
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
def test_a_drain_may_take_a_pod_of_every_overlay_as_it_is(
    overlays: dict[str, Objects], name: str, replicas: int, least: int | None
) -> None:
    service = of_kind(overlays[name], "RayService")["spec"]
    assert serving.pods_with_replicas(yaml.safe_load(service["serveConfigV2"])) == replicas
    budgets = [o for o in overlays[name] if o["kind"] == "PodDisruptionBudget"]
    assert [each["spec"]["minAvailable"] for each in budgets] == ([] if least is None else [least])
    # Every one of them finds a pod of its own.
    assert sum(g["maxReplicas"] for g in service["rayClusterConfig"]["workerGroupSpecs"]) > replicas


def test_a_budget_that_no_pod_may_leave(overlays: dict[str, Objects]) -> None:
    objects = replaced(overlays, "ha/redis")
    assert validate.problems(objects) == []
    budget = of_kind(objects, "PodDisruptionBudget")["spec"]
    budget["minAvailable"] = 3
    (line,) = validate.problems(objects)
    assert line.startswith(f"{BUDGET}3, the pods that have a replica and so are ready")
    assert "(given: 3); lower it, or raise the replicas in serveConfigV2" in line
    budget["minAvailable"] = 2
    # As many pods as before, but two replicas, and the third pod is never ready.
    service = of_kind(objects, "RayService")["spec"]
    service["serveConfigV2"] = service["serveConfigV2"].replace("replicas: 3", "replicas: 2")
    (line,) = validate.problems(objects)
    assert line.startswith(f"{BUDGET}2,")
    # Of other pods, it may be what it likes.
    budget["selector"]["matchLabels"] = {"app": "other"}
    assert validate.problems(objects) == []


def test_without_the_autoscaler_there_are_no_more_pods_than_are_asked_for(
    overlays: dict[str, Objects],
) -> None:
    objects = replaced(overlays, "ha/redis")
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
        (model({"replicas": 3}), 1),  # nothing keeps them apart
        (model({"replicas": 3}, max_replicas_per_node=1), 3),
        (model({"replicas": 3}, max_replicas_per_node=2), 2),
        (model({"replicas": 3, "parallel": {"pipeline": 2}}), 3),  # each fills its pods
        (model({"autoscaling": {"max_replicas": 4}}, max_replicas_per_node=1), 1),
        (model({"autoscaling": {"min_replicas": 2}}, max_replicas_per_node=1), 2),
        (model({"autoscaling": {"min_replicas": 0}}, max_replicas_per_node=1), 0),
        (model({"replicas": 3}, num_replicas=2, max_replicas_per_node=1), 2),  # these count
        (model({}, autoscaling_config={"min_replicas": 4}, max_replicas_per_node=1), 4),
        (model({"replicas": 2}, num_replicas="auto", max_replicas_per_node=1), 1),
        ({"import_path": "deployments.app:catalog", "name": "server"}, 1),
        ({"import_path": "deployments.app:router", "name": "router"}, 1),
        ({"import_path": "theirs:app", "name": "theirs"}, 0),
    ],
)
def test_pods_that_have_a_replica_at_least(application: dict[str, Any], pods: int) -> None:
    assert serving.pods_with_replicas({"applications": [application]}) == pods


def test_the_loader_has_no_claim_where_there_is_a_bucket(kustomize: None) -> None:
    parts = overlay.k8s_dir() / "components"
    objects = overlay.build(
        overlay.k8s_dir() / "overlays" / "cpu-dev", [parts / "object-store", parts / "loader"]
    )
    (line,) = validate.problems(objects)
    assert line.startswith(
        "Job/headrace-loader: spec.template.spec.volumes[0]: there is no claim headrace-artifacts"
    )
    # One that is not ours may be in the cluster already.
    job = of_kind(objects, "Job")["spec"]["template"]["spec"]
    job["volumes"][0]["persistentVolumeClaim"]["claimName"] = "mine"
    assert validate.problems(objects) == []


def test_an_ingress_does_not_go_with_an_upgrade_step_by_step(kustomize: None) -> None:
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

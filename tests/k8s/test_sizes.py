"""Group sizes of ``headrace k8s render``: pods, GPUs, and the budget of the replicas."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from manifests import DIGEST, GROUP, applications, budgets, group_of, model, patched, service
from synthetic_artifacts import edited

from cluster.errors import ConfigError
from deployments.kubernetes.sizes import quantity

pytestmark = pytest.mark.usefixtures("kustomize")
Plan = Callable[..., Path]
Headrace = Callable[..., Any]


def test_budget_is_all_replicas_but_one(headrace: Headrace, store: Path, plan: Plan) -> None:
    arguments = ("k8s", "render", "--store", store, "--image", DIGEST, "--model")
    result = headrace(*arguments, "plain", "--overlay", "ha/rocksdb")
    assert result.status == 0, result.err
    assert budgets(result.out) == {"headrace-replicas": 2}
    assert "PodDisruptionBudget" not in result.err
    # Each of the three replicas has its own pod: a pod without a replica is never ready.
    catalog, application = applications(service(result.out))
    assert application["args"]["autoscaling"]["min_replicas"] == 3
    assert application["deployments"] == [{"name": "model-plain", "max_replicas_per_node": 1}]
    assert catalog["deployments"] == [
        {"name": "catalog", "num_replicas": 2, "max_replicas_per_node": 1}
    ]
    # Two spread shards need two pods: the overlay's three pods hold one replica.
    spread = plan("cut", "--devices", "1xcpu-x86@2", "--pipeline", "2", "--placement", "SPREAD")
    result = headrace(*arguments, "cut", "--overlay", "ha/rocksdb", "--plan", spread)
    assert result.status == 0, result.err
    assert budgets(result.out) == {}
    assert "PodDisruptionBudget/headrace-replicas is left out: with one replica" in result.err
    assert "or delete it where it has been applied" in result.err


def test_budget_counts_replicas_not_pods(
    headrace: Headrace, store: Path, plan: Plan, tmp_path: Path
) -> None:
    mine = patched(
        tmp_path,
        *(
            {"op": "replace", "path": f"{GROUP}/{f}", "value": 6}
            for f in ("replicas", "minReplicas")
        ),
    )
    spread = plan("cut", "--devices", "1xcpu-x86@2", "--pipeline", "2", "--placement", "SPREAD")
    result = headrace(
        "k8s",
        "render",
        "--store",
        store,
        "--image",
        DIGEST,
        "--model",
        "cut",
        "--plan",
        spread,
        "--overlay",
        mine,
    )
    assert result.status == 0, result.err
    spec = service(result.out)
    assert group_of(spec)["replicas"] == 6
    assert model(spec)["args"]["autoscaling"]["min_replicas"] == 3
    assert budgets(result.out) == {"headrace-replicas": 2}  # only three of six pods are ever ready


def test_budget_of_other_pods_is_unchanged(headrace: Headrace, store: Path, tmp_path: Path) -> None:
    mine = patched(tmp_path, {"op": "replace", "path": f"{GROUP}/replicas", "value": 3})
    gateway = {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": "gateway"},
        "spec": {"minAvailable": 5, "selector": {"matchLabels": {"app": "other"}}},
    }
    by_kuberay = {  # selects by a label that KubeRay adds
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": "nodes"},
        "spec": {
            "minAvailable": 9,
            "selector": {
                "matchExpressions": [
                    {"key": "ray.io/node-type", "operator": "In", "values": ["worker"]}
                ]
            },
        },
    }
    (mine / "more.yaml").write_text(yaml.safe_dump_all([gateway, by_kuberay]))
    kustomization = mine / "kustomization.yaml"
    whole = yaml.safe_load(kustomization.read_text())
    kustomization.write_text(yaml.safe_dump({**whole, "resources": ["../base", "more.yaml"]}))
    result = headrace(
        "k8s", "render", "--store", store, "--image", DIGEST, "--model", "plain", "--overlay", mine
    )
    assert result.status == 0, result.err
    assert budgets(result.out) == {"headrace-replicas": 2, "gateway": 5, "nodes": 2}


def test_incremental_upgrade_starts_with_fewer_pods(headrace: Headrace, store: Path) -> None:
    result = headrace(
        "k8s",
        "render",
        "--store",
        store,
        "--image",
        DIGEST,
        "--model",
        "plain",
        "--overlay",
        "incremental-upgrade",
    )
    assert result.status == 0, result.err
    spec = service(result.out)
    group = group_of(spec)
    assert (group["minReplicas"], group["replicas"], group["maxReplicas"]) == (1, 2, 8)
    assert model(spec)["args"]["autoscaling"]["min_replicas"] == 2
    assert budgets(result.out) == {"headrace-replicas": 1}


def test_plan_selects_group_with_its_gpus(headrace: Headrace, store: Path, plan: Plan) -> None:
    result = headrace(
        "k8s",
        "render",
        "--model",
        "large",
        "--store",
        store,
        "--image",
        DIGEST,
        "--overlay",
        "gpu",
        "--plan",
        plan("large", "--devices", "8xcuda-sm90", "--pipeline", "8"),
    )
    assert result.status == 0, result.err
    spec = service(result.out)
    group = group_of(spec)  # not the group of L4s
    assert group["groupName"] == "h100"
    assert group["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 8
    assert model(spec)["args"]["autoscaling"]["max_replicas"] == 2


def test_pod_has_only_the_gpus_of_its_replica(headrace: Headrace, store: Path) -> None:
    result = headrace(
        "k8s",
        "render",
        "--model",
        "large",
        "--store",
        store,
        "--image",
        DIGEST,
        "--overlay",
        "gpu",
    )
    spec = service(result.out)
    (deployment,) = model(spec)["deployments"]
    assert deployment["ray_actor_options"] == {"num_cpus": 1, "num_gpus": 1}
    assert deployment["name"] == "model-large"
    # An eighth of the machine, and the same total of GPUs: two machines of eight.
    group = group_of(spec)
    resources = group["template"]["spec"]["containers"][0]["resources"]
    eighth = {"cpu": "4000m", "memory": "32768Mi", "nvidia.com/gpu": 1}
    assert resources == {"requests": eighth, "limits": eighth}
    assert (group["minReplicas"], group["maxReplicas"]) == (1, 16)
    assert model(spec)["args"]["autoscaling"]["max_replicas"] == 16


def test_pods_of_a_replica_share_its_gpus_evenly(
    headrace: Headrace, store: Path, plan: Plan
) -> None:
    twelve = plan("twelve", "--devices", "8xcuda-sm90@2", "--pipeline", "12")
    result = headrace(
        "k8s",
        "render",
        "--model",
        "twelve",
        "--store",
        store,
        "--image",
        DIGEST,
        "--overlay",
        "gpu",
        "--plan",
        twelve,
    )
    assert result.status == 0, result.err
    group = group_of(service(result.out))
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert (group["minReplicas"], limits["nvidia.com/gpu"], limits["cpu"]) == (2, 6, "24000m")


@pytest.mark.parametrize(
    ("missing", "pods"), [(("minReplicas",), (0, 2)), (("minReplicas", "replicas"), (0, 1))]
)
def test_group_without_min_replicas_is_sized(
    headrace: Headrace,
    store: Path,
    tmp_path: Path,
    missing: tuple[str, ...],
    pods: tuple[int, int],
) -> None:
    mine = patched(tmp_path, *({"op": "remove", "path": f"{GROUP}/{field}"} for field in missing))
    result = headrace(
        "k8s", "render", "--model", "plain", "--store", store, "--image", DIGEST, "--overlay", mine
    )
    assert result.status == 0, result.err
    spec = service(result.out)
    group = group_of(spec)
    assert (group["minReplicas"], group["replicas"]) == pods
    assert model(spec)["args"]["autoscaling"]["min_replicas"] == pods[1]


def test_plan_with_too_many_gpus_is_refused(
    headrace: Headrace, store: Path, plan: Plan, tmp_path: Path
) -> None:
    arguments = ("k8s", "render", "--model", "large", "--store", store, "--image", DIGEST)
    many = plan("large", "--devices", "8xcuda-sm90@4", "--pipeline", "8", "--tensor", "4")
    result = headrace(*arguments, "--overlay", "gpu", "--plan", many)
    assert result.status == 2
    assert (
        "group h100: the plan needs 32 GPUs for a replica, the group has at most 2 pods of 8 GPUs, "
        "16 together; raise its maxReplicas" in result.err
    )
    packed = edited(many, tmp_path / "packed.json", placement="STRICT_PACK")
    result = headrace(*arguments, "--overlay", "gpu", "--plan", packed)
    assert result.status == 2
    assert "needs 32 GPUs for a replica on one node (STRICT_PACK), a pod has 8" in result.err
    result = headrace(*arguments)
    assert result.status == 2
    assert (
        "large has programs for cuda-sm90, the overlay's groups are cpu-x86 (cpu-x86)" in result.err
    )


def test_spread_shards_have_a_pod_each(headrace: Headrace, store: Path, plan: Plan) -> None:
    spread = plan("cut", "--devices", "1xcpu-x86@2", "--pipeline", "2", "--placement", "SPREAD")
    result = headrace(
        "k8s", "render", "--model", "cut", "--store", store, "--image", DIGEST, "--plan", spread
    )
    assert result.status == 0, result.err
    group = group_of(service(result.out))
    assert (group["minReplicas"], group["maxReplicas"]) == (2, 2)
    assert group["rayStartParams"]["num-cpus"] == "1"


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("2", 2),
        (2, 2),
        (0.5, 0.5),
        ("500m", 0.5),
        ("4u", 4e-6),
        ("3n", 3e-9),
        ("1k", 1e3),
        ("4Gi", 4 * 2**30),
        ("1.5Ti", 1.5 * 2**40),
        ("2P", 2e15),
        ("2Pi", 2 * 2**50),
        ("1E", 1e18),
        ("4Ei", 4 * 2**60),
        ("4e9", 4e9),
        ("1E3", 1e3),
        ("+1.", 1),
        (".5", 0.5),
        ("5e-1", 0.5),
    ],
)
def test_quantity_is_a_number(text: str | float, number: float) -> None:
    assert quantity(text) == pytest.approx(number)


@pytest.mark.parametrize("text", ["", "4GB", "Gi", "1Ki2", "1 Gi", "nan", "inf", "1mi", "1e3k"])
def test_invalid_quantity_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is not a Kubernetes quantity; give one such as 500m"):
        quantity(text)


def test_sufficient_memory_keeps_its_unit(headrace: Headrace, store: Path, tmp_path: Path) -> None:
    limits = f"{GROUP}/template/spec/containers/0/resources"
    for text in ("4Ei", "1P", "4000000000000m"):
        mine = patched(
            tmp_path / text,
            *(
                {"op": "replace", "path": f"{limits}/{field}/memory", "value": text}
                for field in ("requests", "limits")
            ),
        )
        result = headrace(
            "k8s",
            "render",
            "--model",
            "plain",
            "--store",
            store,
            "--image",
            DIGEST,
            "--overlay",
            mine,
        )
        assert result.status == 0, result.err
        pod = group_of(service(result.out))["template"]["spec"]
        assert pod["containers"][0]["resources"]["limits"]["memory"] == text

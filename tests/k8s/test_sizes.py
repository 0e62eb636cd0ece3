"""What ``headrace k8s render`` makes of a group: its pods, its GPUs, the budget of its replicas."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from made_artifacts import edited
from manifests import DIGEST, GROUP, applications, budgets, group_of, model, patched, service

from cluster.errors import ConfigError
from deployments.kubernetes.sizes import quantity

pytestmark = pytest.mark.usefixtures("kustomize")
Plan = Callable[..., Path]
Headrace = Callable[..., Any]


def test_a_budget_leaves_all_replicas_but_one(headrace: Headrace, store: Path, plan: Plan) -> None:
    arguments = ("k8s", "render", "--store", store, "--image", DIGEST, "--model")
    ran = headrace(*arguments, "plain", "--overlay", "ha/rocksdb")
    assert ran.status == 0, ran.err
    assert budgets(ran.out) == {"headrace-replicas": 2}
    assert "PodDisruptionBudget" not in ran.err
    # Each of the three replicas on a pod of its own: no pod without one would ever be ready.
    catalog, application = applications(service(ran.out))
    assert application["args"]["autoscaling"]["min_replicas"] == 3
    assert application["deployments"] == [{"name": "model-plain", "max_replicas_per_node": 1}]
    assert catalog["deployments"] == [
        {"name": "catalog", "num_replicas": 2, "max_replicas_per_node": 1}
    ]
    # Two shards apart, so two pods to a replica: the overlay's three pods are one replica.
    spread = plan("cut", "--devices", "1xcpu-x86@2", "--pipeline", "2", "--placement", "SPREAD")
    ran = headrace(*arguments, "cut", "--overlay", "ha/rocksdb", "--plan", spread)
    assert ran.status == 0, ran.err
    assert budgets(ran.out) == {}
    assert "no PodDisruptionBudget/headrace-replicas: with one replica at least" in ran.err
    assert "or delete it where it has been applied" in ran.err


def test_a_budget_counts_replicas_and_not_their_pods(
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
    ran = headrace(
        "k8s", "render", "--store", store, "--image", DIGEST, "--model", "cut", "--plan", spread,
        "--overlay", mine,
    )  # fmt: skip
    assert ran.status == 0, ran.err
    spec = service(ran.out)
    assert group_of(spec)["replicas"] == 6
    assert model(spec)["args"]["autoscaling"]["min_replicas"] == 3
    assert budgets(ran.out) == {"headrace-replicas": 2}  # of six pods three are ever ready


def test_budgets_of_other_pods_stay_as_they_are(
    headrace: Headrace, store: Path, tmp_path: Path
) -> None:
    mine = patched(tmp_path, {"op": "replace", "path": f"{GROUP}/replicas", "value": 3})
    gateway = {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": "gateway"},
        "spec": {"minAvailable": 5, "selector": {"matchLabels": {"app": "other"}}},
    }
    by_kuberay = {  # by a label that KubeRay adds
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
    ran = headrace(
        "k8s", "render", "--store", store, "--image", DIGEST, "--model", "plain", "--overlay", mine
    )
    assert ran.status == 0, ran.err
    assert budgets(ran.out) == {"headrace-replicas": 2, "gateway": 5, "nodes": 2}


def test_an_upgrade_step_by_step_starts_with_fewer_pods(headrace: Headrace, store: Path) -> None:
    ran = headrace(
        "k8s", "render", "--store", store, "--image", DIGEST, "--model", "plain",
        "--overlay", "incremental-upgrade",
    )  # fmt: skip
    assert ran.status == 0, ran.err
    spec = service(ran.out)
    group = group_of(spec)
    assert (group["minReplicas"], group["replicas"], group["maxReplicas"]) == (1, 2, 8)
    assert model(spec)["args"]["autoscaling"]["min_replicas"] == 2
    assert budgets(ran.out) == {"headrace-replicas": 1}


def test_gpus_come_from_the_group_of_their_kind(
    headrace: Headrace, store: Path, plan: Plan
) -> None:
    ran = headrace(
        "k8s", "render", "--model", "large", "--store", store, "--image", DIGEST,
        "--overlay", "gpu", "--plan", plan("large", "--devices", "8xcuda-sm90", "--pipeline", "8"),
    )  # fmt: skip
    assert ran.status == 0, ran.err
    spec = service(ran.out)
    group = group_of(spec)  # none of L4s, which would not do
    assert group["groupName"] == "h100"
    assert group["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 8
    assert model(spec)["args"]["autoscaling"]["max_replicas"] == 2


def test_a_pod_takes_no_more_gpus_than_its_replica(headrace: Headrace, store: Path) -> None:
    ran = headrace(
        "k8s", "render", "--model", "large", "--store", store, "--image", DIGEST,
        "--overlay", "gpu",
    )  # fmt: skip
    spec = service(ran.out)
    (deployment,) = model(spec)["deployments"]
    assert deployment["ray_actor_options"] == {"num_cpus": 1, "num_gpus": 1}
    assert deployment["name"] == "model-large"
    # An eighth of the machine, and as many GPUs in all as before: two machines of eight.
    group = group_of(spec)
    resources = group["template"]["spec"]["containers"][0]["resources"]
    eighth = {"cpu": "4000m", "memory": "32768Mi", "nvidia.com/gpu": 1}
    assert resources == {"requests": eighth, "limits": eighth}
    assert (group["minReplicas"], group["maxReplicas"]) == (1, 16)
    assert model(spec)["args"]["autoscaling"]["max_replicas"] == 16


def test_the_pods_of_a_replica_share_its_gpus_evenly(
    headrace: Headrace, store: Path, plan: Plan
) -> None:
    twelve = plan("twelve", "--devices", "8xcuda-sm90@2", "--pipeline", "12")
    ran = headrace(
        "k8s", "render", "--model", "twelve", "--store", store, "--image", DIGEST,
        "--overlay", "gpu", "--plan", twelve,
    )  # fmt: skip
    assert ran.status == 0, ran.err
    group = group_of(service(ran.out))
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert (group["minReplicas"], limits["nvidia.com/gpu"], limits["cpu"]) == (2, 6, "24000m")


@pytest.mark.parametrize(
    ("left_out", "pods"), [(("minReplicas",), (0, 2)), (("minReplicas", "replicas"), (0, 1))]
)
def test_a_group_without_a_least_number_of_pods(
    headrace: Headrace,
    store: Path,
    tmp_path: Path,
    left_out: tuple[str, ...],
    pods: tuple[int, int],
) -> None:
    mine = patched(tmp_path, *({"op": "remove", "path": f"{GROUP}/{each}"} for each in left_out))
    ran = headrace(
        "k8s", "render", "--model", "plain", "--store", store, "--image", DIGEST, "--overlay", mine
    )
    assert ran.status == 0, ran.err
    spec = service(ran.out)
    group = group_of(spec)
    assert (group["minReplicas"], group["replicas"]) == pods
    assert model(spec)["args"]["autoscaling"]["min_replicas"] == pods[1]


def test_more_gpus_than_the_group_has(
    headrace: Headrace, store: Path, plan: Plan, tmp_path: Path
) -> None:
    arguments = ("k8s", "render", "--model", "large", "--store", store, "--image", DIGEST)
    many = plan("large", "--devices", "8xcuda-sm90@4", "--pipeline", "8", "--tensor", "4")
    ran = headrace(*arguments, "--overlay", "gpu", "--plan", many)
    assert ran.status == 2
    assert (
        "group h100: the plan wants 32 GPUs for a replica, the group has at most 2 pods of 8, 16 "
        "together; raise its maxReplicas" in ran.err
    )
    packed = edited(many, tmp_path / "packed.json", placement="STRICT_PACK")
    ran = headrace(*arguments, "--overlay", "gpu", "--plan", packed)
    assert ran.status == 2
    assert "wants 32 GPUs for a replica on one node (STRICT_PACK), a pod has 8" in ran.err
    ran = headrace(*arguments)
    assert ran.status == 2
    assert "large has programs for cuda-sm90, the overlay's groups are cpu-x86 (cpu-x86)" in ran.err


def test_shards_spread_over_nodes_have_a_pod_each(
    headrace: Headrace, store: Path, plan: Plan
) -> None:
    spread = plan("cut", "--devices", "1xcpu-x86@2", "--pipeline", "2", "--placement", "SPREAD")
    ran = headrace(
        "k8s", "render", "--model", "cut", "--store", store, "--image", DIGEST, "--plan", spread
    )
    assert ran.status == 0, ran.err
    group = group_of(service(ran.out))
    assert (group["minReplicas"], group["maxReplicas"]) == (2, 2)
    assert group["rayStartParams"]["num-cpus"] == "1"


@pytest.mark.parametrize(
    ("written", "number"),
    [
        ("2", 2), (2, 2), (0.5, 0.5), ("500m", 0.5), ("4u", 4e-6), ("3n", 3e-9), ("1k", 1e3),
        ("4Gi", 4 * 2**30), ("1.5Ti", 1.5 * 2**40), ("2P", 2e15), ("2Pi", 2 * 2**50), ("1E", 1e18),
        ("4Ei", 4 * 2**60), ("4e9", 4e9), ("1E3", 1e3), ("+1.", 1), (".5", 0.5), ("5e-1", 0.5),
    ],
)  # fmt: skip
def test_a_quantity(written: str | float, number: float) -> None:
    assert quantity(written) == pytest.approx(number)


@pytest.mark.parametrize("written", ["", "4GB", "Gi", "1Ki2", "1 Gi", "nan", "inf", "1mi", "1e3k"])
def test_what_is_no_quantity(written: str) -> None:
    with pytest.raises(ConfigError, match="is no quantity that Kubernetes knows, such as 500m"):
        quantity(written)


def test_memory_in_unusual_units_stays_if_it_is_enough(
    headrace: Headrace, store: Path, tmp_path: Path
) -> None:
    limits = f"{GROUP}/template/spec/containers/0/resources"
    for written in ("4Ei", "1P", "4000000000000m"):
        mine = patched(
            tmp_path / written,
            *(
                {"op": "replace", "path": f"{limits}/{each}/memory", "value": written}
                for each in ("requests", "limits")
            ),
        )
        ran = headrace(
            "k8s", "render", "--model", "plain", "--store", store, "--image", DIGEST,
            "--overlay", mine,
        )  # fmt: skip
        assert ran.status == 0, ran.err
        pod = group_of(service(ran.out))["template"]["spec"]
        assert pod["containers"][0]["resources"]["limits"]["memory"] == written

"""The committed schemas: what the CRDs say, no more and no less."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from deployments.kubernetes import schemas, structure


def test_the_file_is_what_the_crds_give(crds: Path) -> None:
    pytest.importorskip("kubernetes_validate")
    made = schemas.derive(crds)
    assert made == schemas.schemas(), (
        f"make it anew: python -m deployments.kubernetes.schemas {crds}"
    )
    assert schemas.packed(made) == schemas.packed(schemas.derive(crds))  # the same bytes each time


@pytest.mark.parametrize("kind", ["RayService", "RayJob", "RayCluster"])
def test_every_field_of_a_crd_is_known_with_its_type(crds: Path, kind: str) -> None:
    (path,) = crds.glob(f"ray.io_{kind.lower()}s.yaml")
    crd = yaml.load(path.read_text(), Loader=yaml.CSafeLoader)
    (version,) = [each for each in crd["spec"]["versions"] if each["storage"]]
    seen = 0

    def compare(full: dict[str, Any], ours: dict[str, Any]) -> None:
        nonlocal seen
        seen += 1
        while "$ref" in ours:
            ours = schemas.schemas()["$defs"][ours["$ref"].rpartition("/")[2]]
        if "type" in full and not full.get("nullable"):
            assert ours["type"] == full["type"]
        for field in ("enum", "required", "default", "pattern", "minimum", "maximum"):
            assert ours.get(field) == full.get(field)
        if "properties" in full:
            assert set(ours["properties"]) == set(full["properties"])
            assert ours["additionalProperties"] is False
            for name, each in full["properties"].items():
                if name != "metadata":
                    compare(each, ours["properties"][name])
        if "items" in full:
            compare(full["items"], ours["items"])

    compare(version["schema"]["openAPIV3Schema"], schemas.schemas()["kinds"][f"ray.io/v1/{kind}"])
    assert seen > 1000


def test_defaults_come_from_the_crd() -> None:
    filled = structure.defaulted(
        {
            "apiVersion": "ray.io/v1",
            "kind": "RayJob",
            "spec": {"rayClusterSpec": {"workerGroupSpecs": [{"groupName": "one"}]}},
        }
    )
    assert filled["spec"]["submissionMode"] == "K8sJobMode"
    group = filled["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]
    assert (group["replicas"], group["numOfHosts"], group["maxReplicas"]) == (0, 1, 2**31 - 1)


POLICY, CLAIM = "networking.k8s.io/v1 NetworkPolicy", "v1 PersistentVolumeClaim"
BUDGET, SERVICE = "policy/v1 PodDisruptionBudget", "ray.io/v1 RayService"


@pytest.mark.parametrize(
    ("kind", "spec", "said"),
    [
        (BUDGET, "minAvailabel: 1", "spec.minAvailabel: no such field; did you mean minAvailable?"),
        (BUDGET, "minAvailable: 1.5", "spec.minAvailable: must be string or integer (given: 1.5)"),
        (POLICY, "{podSelector: {}, ingres: []}", "no such field; did you mean ingress?"),
        (POLICY, "{podSelector: {}, zzz: 1}", "no such field; known: egress, ingress, podSelector"),
        (CLAIM, "accessModes: ReadWriteMany", "spec.accessModes: must be array"),
        (SERVICE, "rayClusterConfig: {headGroupSpec: {}}", "'template' is a required property"),
        (
            SERVICE,
            "rayClusterConfig: {headGroupSpec: {template: {spec: {containers: [{name: a, "
            "resources: {limits: {cpu: [1]}}}]}}}}",
            "containers[0].resources.limits.cpu: must be integer or string (given: [1])",
        ),
        (
            SERVICE,
            "rayClusterConfig: {authOptions: {mode: tokens}, headGroupSpec: {template: {}}}",
            "authOptions.mode: must be one of disabled, token (given: 'tokens')",
        ),
    ],
)
def test_what_the_api_server_would_refuse(kind: str, spec: str, said: str) -> None:
    version, name = kind.split()
    obj = {
        "apiVersion": version,
        "kind": name,
        "metadata": {"name": "x"},
        "spec": yaml.safe_load(spec),
    }
    found = structure.problems(obj)
    assert any(said in line for line in found), found


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("ray.io/v1alpha1 RayService", "apiVersion: must be ray.io/v1 (given: ray.io/v1alpha1)"),
        ("ray.io/v2 RayJob", "apiVersion: must be ray.io/v1 (given: ray.io/v2)"),
        ("ray.io/v1 RayServic", "no such kind in ray.io/v1; did you mean RayService?"),
        ("ray.io/v1 Queue", "no such kind in ray.io/v1; known: RayCluster, RayJob, RayService"),
        ("apps/v1 Deploymint", "no such kind in apps/v1; did you mean Deployment?"),
        ("extensions/v1beta1 Ingress", None),  # a group of its own, which is checked by nobody
        ("v2 ConfigMap", "apiVersion: must be v1 (given: v2)"),
        ("batch/v1beta1 CronJob", "apiVersion: must be batch/v1 (given: batch/v1beta1)"),
        ("policy/v1 PodDisruptionBugdet", "did you mean PodDisruptionBudget?"),
        ("rbac.authorization.k8s.io/v1 Rolle", "did you mean Role?"),
        (
            "netwroking.k8s.io/v1 Ingress",
            "no such group: netwroking.k8s.io; did you mean",
        ),
        ("ray.ioo/v1 RayJob", "no such group: ray.ioo; did you mean ray.io?"),
        ("kueue.x-k8s.io/v1beta1 ClusterQueue", None),
        ("gateway.networking.k8s.io/v1 Gateway", None),
        ("monitoring.coreos.com/v1 PodMonitor", None),
        ("cert-manager.io/v1 Certificate", None),
    ],
)
def test_a_kind_of_a_known_group_is_a_known_kind(kind: str, said: str | None) -> None:
    version, name = kind.split()
    obj = {"apiVersion": version, "kind": name, "metadata": {"name": "x"}, "spec": {"replicsa": 1}}
    found = structure.problems(obj)
    if said is None:
        assert found == []
    else:
        assert [line.startswith(f"{name}/x: ") and said in line for line in found] == [True], found


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet", "DaemonSet"])
def test_what_others_bring_is_checked_too(kind: str) -> None:
    obj = {
        "apiVersion": "apps/v1", "kind": kind, "metadata": {"name": "x"},
        "spec": {"minReadySecond": 1},
    }  # fmt: skip
    found = structure.problems(obj)
    assert any("minReadySecond: no such field; did you mean minReadySeconds?" in e for e in found)

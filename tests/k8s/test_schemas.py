"""Schemas: equal to those of the CRDs, and refusals that name field and expectation."""

from __future__ import annotations

from typing import Any

import kuberay_crds
import pytest
import yaml

from deployments.kubernetes import derive_schemas, schemas


def test_committed_schemas_equal_those_of_the_crds() -> None:
    pytest.importorskip("kubernetes_validate")
    derived = derive_schemas.derive(kuberay_crds.read())
    assert derived == schemas.schemas(), (
        "run: python -m deployments.kubernetes.derive_schemas DIRECTORY_OF_CRDS"
    )
    # Equal schemas give equal bytes.
    again = derive_schemas.derive(kuberay_crds.read())
    assert derive_schemas.packed(derived) == derive_schemas.packed(again)


def test_crds_are_of_the_release_of_the_schemas() -> None:
    release = schemas.schemas()["kuberay"]
    assert release == derive_schemas.KUBERAY
    assert f"KubeRay {release}," in kuberay_crds.SOURCE.read_text()


@pytest.mark.parametrize("kind", ["RayService", "RayJob", "RayCluster"])
def test_schema_has_every_field_of_the_crd(kind: str) -> None:
    (crd,) = [crd for crd in kuberay_crds.read() if crd["spec"]["names"]["kind"] == kind]
    (version,) = [version for version in crd["spec"]["versions"] if version["storage"]]
    seen = 0

    def compare(full: dict[str, Any], schema: dict[str, Any]) -> None:
        nonlocal seen
        seen += 1
        while "$ref" in schema:
            schema = schemas.schemas()["$defs"][schema["$ref"].rpartition("/")[2]]
        if "type" in full and not full.get("nullable"):
            assert schema["type"] == full["type"]
        for keyword in ("enum", "required", "default", "pattern", "minimum", "maximum"):
            assert schema.get(keyword) == full.get(keyword)
        if "properties" in full:
            assert set(schema["properties"]) == set(full["properties"])
            assert schema["additionalProperties"] is False
            for name, field in full["properties"].items():
                if name != "metadata":
                    compare(field, schema["properties"][name])
        if "items" in full:
            compare(full["items"], schema["items"])

    compare(version["schema"]["openAPIV3Schema"], schemas.schemas()["kinds"][f"ray.io/v1/{kind}"])
    assert seen > 1000


def test_defaults_are_those_of_the_crd() -> None:
    filled = schemas.with_defaults(
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
    ("kind", "spec", "message"),
    [
        (BUDGET, "minAvailabel: 1", "spec.minAvailabel: unknown field; did you mean minAvailable?"),
        (BUDGET, "minAvailable: 1.5", "spec.minAvailable: must be string or integer (given: 1.5)"),
        (POLICY, "{podSelector: {}, ingres: []}", "unknown field; did you mean ingress?"),
        (POLICY, "{podSelector: {}, zzz: 1}", "unknown field; known: egress, ingress, podSelector"),
        (CLAIM, "accessModes: ReadWriteMany", "spec.accessModes: must be array"),
        (
            SERVICE,
            "rayClusterConfig: {headGroupSpec: {}}",
            "rayClusterConfig.headGroupSpec.template: required field is missing",
        ),
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
def test_schema_refuses_wrong_fields_and_types(kind: str, spec: str, message: str) -> None:
    version, name = kind.split()
    obj = {
        "apiVersion": version,
        "kind": name,
        "metadata": {"name": "x"},
        "spec": yaml.safe_load(spec),
    }
    lines = schemas.problems(obj)
    assert any(message in line for line in lines), lines


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("ray.io/v1alpha1 RayService", "apiVersion: must be ray.io/v1 (given: ray.io/v1alpha1)"),
        ("ray.io/v2 RayJob", "apiVersion: must be ray.io/v1 (given: ray.io/v2)"),
        ("ray.io/v1 RayServic", "unknown kind in ray.io/v1; did you mean RayService?"),
        ("ray.io/v1 Queue", "unknown kind in ray.io/v1; known: RayCluster, RayJob, RayService"),
        ("apps/v1 Deploymint", "unknown kind in apps/v1; did you mean Deployment?"),
        ("extensions/v1beta1 Ingress", None),  # another group, without schemas
        ("v2 ConfigMap", "apiVersion: must be v1 (given: v2)"),
        ("batch/v1beta1 CronJob", "apiVersion: must be batch/v1 (given: batch/v1beta1)"),
        ("policy/v1 PodDisruptionBugdet", "did you mean PodDisruptionBudget?"),
        ("rbac.authorization.k8s.io/v1 Rolle", "did you mean Role?"),
        (
            "netwroking.k8s.io/v1 Ingress",
            "unknown API group netwroking.k8s.io; did you mean",
        ),
        ("ray.ioo/v1 RayJob", "unknown API group ray.ioo; did you mean ray.io?"),
        ("kueue.x-k8s.io/v1beta1 ClusterQueue", None),
        ("gateway.networking.k8s.io/v1 Gateway", None),
        ("monitoring.coreos.com/v1 PodMonitor", None),
        ("cert-manager.io/v1 Certificate", None),
    ],
)
def test_unknown_kind_of_known_group_is_refused(kind: str, message: str | None) -> None:
    version, name = kind.split()
    obj = {"apiVersion": version, "kind": name, "metadata": {"name": "x"}, "spec": {"replicsa": 1}}
    lines = schemas.problems(obj)
    if message is None:
        assert lines == []
    else:
        assert [line.startswith(f"{name}/x: ") and message in line for line in lines] == [True], (
            lines
        )


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet", "DaemonSet"])
def test_schema_refuses_unknown_field_of_core_kind(kind: str) -> None:
    obj = {
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": {"name": "x"},
        "spec": {"minReadySecond": 1},
    }
    lines = schemas.problems(obj)
    assert any(
        "minReadySecond: unknown field; did you mean minReadySeconds?" in line for line in lines
    )

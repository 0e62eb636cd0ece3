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

"""Each rule on the overlay it concerns: nothing to say of it as it is, and of one change, this."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from deployments.kubernetes import validate
from deployments.kubernetes.own_rules import OWN_RULES
from deployments.kubernetes.rules import RULES

DIGEST = "headrace@sha256:" + "0123456789abcdef" * 4
PLACES = {
    "HEAD_POD": "spec.rayClusterConfig.headGroupSpec.template.spec",
    "POD": "spec.rayClusterConfig.workerGroupSpecs.0.template.spec",
    "GROUP": "spec.rayClusterConfig.workerGroupSpecs.0",
    "HEAD": "spec.rayClusterConfig.headGroupSpec",
    "CLUSTER": "spec.rayClusterConfig",
    "UPGRADE": "spec.upgradeStrategy.clusterUpgradeOptions",
}
CASES = yaml.safe_load(Path(__file__).with_name("rule_cases.yaml").read_text())


def found(overlays: dict[str, list[dict[str, Any]]], overlay: str, kind: str) -> dict[str, Any]:
    """A copy of the one object of a kind, its images by digest."""
    (obj,) = [copy.deepcopy(each) for each in overlays[overlay] if each["kind"] == kind]
    if kind == "RayService":
        config = obj["spec"]["rayClusterConfig"]
        for group in (config["headGroupSpec"], *config["workerGroupSpecs"]):
            group["template"]["spec"]["containers"][0]["image"] = DIGEST
    return obj


def change(obj: Any, path: str, value: Any = None, *, remove: bool = False) -> None:
    first, _, rest = path.partition(".")
    whole = f"{PLACES.get(first, first)}.{rest}".rstrip(".")
    *above, last = [int(part) if part.isdecimal() else part for part in whole.split(".")]
    for part in above:
        obj = obj[part]
    if remove:
        del obj[last]
    else:
        obj[last] = value


@pytest.mark.parametrize("case", CASES, ids=[case["said"][:50] for case in CASES])
def test_a_rule(overlays: dict[str, list[dict[str, Any]]], case: dict[str, Any]) -> None:
    overlay, kind = case["object"].split()
    obj = found(overlays, overlay, kind)
    claims = [each for each in overlays[overlay] if each["kind"] == "PersistentVolumeClaim"]
    assert validate.problems([obj, *claims]) == []
    for path, value in case.get("change", {}).items():
        change(obj, path, value)
    for path in case.get("remove", ()):
        change(obj, path, remove=True)
    # The rules alone, too: a schema may refuse the same first.
    lines = [line for rule in (*RULES, *OWN_RULES) for line in rule(obj)]
    lines += validate.problems([obj, *claims])
    assert any(case["said"] in line for line in lines), lines


@pytest.mark.parametrize(
    ("change_", "remove"),
    [
        # What KubeRay takes, and must not be refused: it keeps `replicas` between the other two,
        # and Kubernetes fills in what is left out.
        ({}, ["GROUP.replicas"]),
        ({"GROUP.replicas": 9}, []),
        ({"GROUP.idleTimeoutSeconds": 600}, []),
        (
            {"HEAD_POD.containers.0.volumeMounts.0.mountPath": "/data/gcs"},
            [],
        ),  # no embedded storage
        ({"CLUSTER.enableInTreeAutoscaling": False}, ["GROUP.minReplicas", "GROUP.maxReplicas"]),
    ],
)
def test_what_is_right(
    overlays: dict[str, list[dict[str, Any]]], change_: dict[str, Any], remove: list[str]
) -> None:
    obj = found(overlays, "cpu-dev", "RayService")
    for path, value in change_.items():
        change(obj, path, value)
    for path in remove:
        change(obj, path, remove=True)
    claims = [each for each in overlays["cpu-dev"] if each["kind"] == "PersistentVolumeClaim"]
    assert validate.problems([obj, *claims]) == []


def test_two_of_a_name(overlays: dict[str, list[dict[str, Any]]]) -> None:
    obj = found(overlays, "ha/redis", "PodDisruptionBudget")
    assert validate.problems([obj, obj]) == [
        "PodDisruptionBudget/headrace-replicas: there are two of it"
    ]

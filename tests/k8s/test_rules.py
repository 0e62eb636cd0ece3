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
    assert validate.problems([obj]) == []
    for path, value in case.get("change", {}).items():
        change(obj, path, value)
    for path in case.get("remove", ()):
        change(obj, path, remove=True)
    # The rules alone, too: a schema may refuse the same first.
    lines = [line for rule in (*RULES, *OWN_RULES) for line in rule(obj)]
    lines += validate.problems([obj])
    assert any(case["said"] in line for line in lines), lines


def test_a_budget_that_no_pod_may_leave(overlays: dict[str, list[dict[str, Any]]]) -> None:
    objects = [found(overlays, "ha/redis", kind) for kind in ("RayService", "PodDisruptionBudget")]
    assert validate.problems(objects) == []
    objects[1]["spec"]["minAvailable"] = 3
    assert validate.problems(objects) == [
        "PodDisruptionBudget/headrace-replicas: spec.minAvailable: must be under 3, the least "
        "number of pods, or draining a node waits for ever (given: 3)"
    ]


def test_two_of_a_name(overlays: dict[str, list[dict[str, Any]]]) -> None:
    obj = found(overlays, "ha/redis", "PodDisruptionBudget")
    assert validate.problems([obj, obj]) == [
        "PodDisruptionBudget/headrace-replicas: there are two of it"
    ]

"""Rules for one object: each overlay passes them, and each change of the cases breaks one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from overlay_objects import Objects, changed, object_of_kind

from deployments.kubernetes import validate

CASES = yaml.safe_load(Path(__file__).with_name("rule_cases.yaml").read_text())


def problems(obj: dict[str, Any], objects: Objects) -> list[str]:
    """Problems of one object beside the claims of its overlay, which its pods mount."""
    claims = [other for other in objects if other["kind"] == "PersistentVolumeClaim"]
    return validate.problems([obj, *claims])


@pytest.mark.parametrize("case", CASES, ids=[case["message"][:50] for case in CASES])
def test_rule_refuses_change_with_its_message(
    overlays: dict[str, Objects], case: dict[str, Any]
) -> None:
    overlay, kind = case["object"].split()
    obj = object_of_kind(overlays[overlay], kind)
    assert problems(obj, overlays[overlay]) == []
    broken = changed(obj, case.get("change", {}), case.get("remove", ()))
    lines = problems(broken, overlays[overlay])
    assert any(case["message"] in line for line in lines), lines


@pytest.mark.parametrize(
    ("changes", "removals"),
    [
        # KubeRay clamps `replicas`, and Kubernetes fills in defaults.
        ({}, ["GROUP.replicas"]),
        ({"GROUP.replicas": 9}, []),
        ({"GROUP.resources": {"CPU": "2"}}, []),
        ({"CLUSTER.enableInTreeAutoscaling": False}, ["GROUP.minReplicas", "GROUP.maxReplicas"]),
    ],
)
def test_rules_accept_valid_change(
    overlays: dict[str, Objects], changes: dict[str, Any], removals: list[str]
) -> None:
    obj = object_of_kind(overlays["cpu-dev"], "RayService")
    assert problems(changed(obj, changes, removals), overlays["cpu-dev"]) == []


def test_objects_with_the_same_name_are_refused(overlays: dict[str, Objects]) -> None:
    obj = object_of_kind(overlays["ha/redis"], "PodDisruptionBudget")
    assert validate.problems([obj, obj]) == [
        "PodDisruptionBudget/headrace-replicas: duplicate object; keep one"
    ]

"""What is rendered, taken apart for the tests; and overlays that change the base."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import yaml

from deployments.kubernetes import overlay

GROUP = "/spec/rayClusterConfig/workerGroupSpecs/0"
"""Path of the base's one group, in a patch."""

DIGEST = "registry.example.com/headrace@sha256:" + "0123456789abcdef" * 4


def service(text: str) -> dict[str, Any]:
    """``spec`` of the one RayService."""
    (found,) = [each for each in yaml.safe_load_all(text) if each["kind"] == "RayService"]
    return dict(found["spec"])


def applications(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """Of the Serve config inside: the catalog, then the model."""
    return list(yaml.safe_load(spec["serveConfigV2"])["applications"])


def model(spec: dict[str, Any]) -> dict[str, Any]:
    return applications(spec)[1]


def group_of(spec: dict[str, Any]) -> dict[str, Any]:
    """The one group that is left."""
    (group,) = spec["rayClusterConfig"]["workerGroupSpecs"]
    return dict(group)


def budgets(text: str) -> dict[str, int]:
    """Name → minAvailable."""
    found = [o for o in yaml.safe_load_all(text) if o["kind"] == "PodDisruptionBudget"]
    return {each["metadata"]["name"]: each["spec"]["minAvailable"] for each in found}


def patched(folder: Path, *patches: dict[str, Any]) -> Path:
    """An overlay that changes the base's RayService."""
    # Beside a copy of the base: kustomize takes no absolute paths.
    shutil.copytree(overlay.k8s_dir() / "base", folder / "base")
    mine = folder / "mine"
    mine.mkdir()
    whole = {
        "resources": ["../base"],
        "patches": [
            {
                "target": {"kind": "RayService"},
                "patch": yaml.safe_dump(list(patches)),
                "options": {"allowKindChange": True},
            }
        ],
    }
    (mine / "kustomization.yaml").write_text(yaml.safe_dump(whole))
    return mine

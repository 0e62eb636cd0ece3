"""Parts of rendered manifests, and overlays that patch the base."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import yaml

from deployments.kubernetes import manifest_yaml, overlay

GROUP = "/spec/rayClusterConfig/workerGroupSpecs/0"
"""JSON path of the base's worker group."""

DIGEST = "registry.example.com/headrace@sha256:" + "0123456789abcdef" * 4


def service(text: str) -> dict[str, Any]:
    """Return ``spec`` of the one RayService."""
    (obj,) = [obj for obj in yaml.safe_load_all(text) if obj["kind"] == "RayService"]
    return dict(obj["spec"])


def applications(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the applications of the Serve config: the catalog, then the model."""
    return list(yaml.safe_load(spec["serveConfigV2"])["applications"])


def model(spec: dict[str, Any]) -> dict[str, Any]:
    return applications(spec)[1]


def group_of(spec: dict[str, Any]) -> dict[str, Any]:
    """Return the one worker group of a rendered RayService."""
    (group,) = spec["rayClusterConfig"]["workerGroupSpecs"]
    return dict(group)


def budgets(text: str) -> dict[str, int]:
    """Return name → minAvailable."""
    listed = [o for o in yaml.safe_load_all(text) if o["kind"] == "PodDisruptionBudget"]
    return {o["metadata"]["name"]: o["spec"]["minAvailable"] for o in listed}


def patched(folder: Path, *patches: dict[str, Any]) -> Path:
    """Write an overlay that patches the base's RayService; return its folder."""
    # A copy of the base beside it, because kustomize refuses absolute paths.
    shutil.copytree(overlay.k8s_dir() / "base", folder / "base")
    mine = folder / "mine"
    mine.mkdir()
    kustomization = {
        "resources": ["../base"],
        "patches": [
            {
                "target": {"kind": "RayService"},
                "patch": manifest_yaml.dump(list(patches)),
                "options": {"allowKindChange": True},
            }
        ],
    }
    (mine / "kustomization.yaml").write_text(manifest_yaml.dump(kustomization))
    return mine

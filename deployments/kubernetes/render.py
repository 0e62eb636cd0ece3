"""Manifests for one model: an overlay's objects, with the artifact, plan and image put in.

artifact, plan ─→ target, bundles ─→ the group that has such devices, its pods sized
               └→ model's args    ─→ serveConfigV2
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import yaml

from cluster.artifact.artifact import Artifact
from cluster.errors import ConfigError, PlanError
from cluster.parallel.plan import bundles as bundles_of
from deployments.kubernetes import images, serving, structure
from deployments.kubernetes.plan_file import Plan
from deployments.kubernetes.pods import containers, group_labels
from deployments.kubernetes.selectors import selects
from deployments.kubernetes.sizes import Fitted, Need, fit
from deployments.shards.placement import DEVICES_VARIABLE

Object = dict[str, Any]

TARGET_LABEL = "headrace-target"
"""Label of a group's pods: whose programs run there."""

STORE = "headrace-store"
"""The ConfigMap that says where artifacts are."""

SERVING_IMAGE = "headrace-serving"
"""What the overlays call the image that is put in."""

_ARTIFACTS = "artifacts"  # the volume, where they are in a claim
_BUILD_ONLY = ("RayJob/headrace-compression", "ConfigMap/headrace-recipe")


@dataclass(frozen=True)
class Asked:
    """What is to be served, and how."""

    artifact: Artifact
    name: str
    image: str
    plan: Plan | None
    store: str | None
    """A URI that replicas read from; None: the claim."""

    require_signature: bool


def rendered(objects: list[Object], asked: Asked) -> list[Object]:
    """The objects of an overlay for one model.

    They are such as KubeRay takes. PlanError if no group can hold it; ConfigError for what is no
    image, or an overlay that does not say what is needed.
    """
    if not images.is_reference(asked.image):
        raise ConfigError(
            f"--image {asked.image!r:.160}: no image is named so; give NAME@sha256:..., as the "
            "push printed it, or NAME:TAG"
        )
    made = [copy.deepcopy(each) for each in objects if structure.name(each) not in _BUILD_ONLY]
    services = [each for each in made if each["kind"] == "RayService"]
    if len(services) != 1:
        raise ConfigError(f"the overlay has {len(services)} RayServices; exactly one is needed")
    spec = services[0]["spec"]
    config = spec["rayClusterConfig"]
    group, target = _group(config.get("workerGroupSpecs") or [], asked)
    fitted = fit(group, _need(asked, target), target)
    config["workerGroupSpecs"] = [fitted.group]
    spec["serveConfigV2"] = yaml.safe_dump(
        serving.written(
            serving.Served(
                name=asked.name,
                artifact=str(asked.artifact.id),
                target=target,
                plan=asked.plan,
                require_signature=asked.require_signature,
                replicas=fitted.replicas,
                most_replicas=fitted.most_replicas,
            )
        ),
        sort_keys=False,
    )
    for each in (config["headGroupSpec"], fitted.group):
        container = each["template"]["spec"]["containers"][0]
        container["image"] = asked.image
        if asked.plan is not None and asked.plan.cut:
            variables = container.setdefault("env", [])
            variables.append({"name": DEVICES_VARIABLE, "value": fitted.devices})
        if asked.store is not None:
            pod = each["template"]["spec"]
            pod["volumes"] = [_without_claim(volume) for volume in pod.get("volumes") or []]
    for _, container in (found for each in made for found in containers(each)):
        if images.same_name(container.get("image", ""), SERVING_IMAGE):
            container["image"] = asked.image
    if asked.store is not None:
        for each in made:
            if structure.name(each) == f"ConfigMap/{STORE}":
                each.setdefault("data", {})["HEADRACE_STORE"] = asked.store
    return [each for each in made if _disrupted(each, fitted)]


def _disrupted(obj: Object, fitted: Fitted) -> bool:
    """Make the budget of our replicas' pods leave all of them but one; False if there is but one.

    Of a replica of several pods one is ever ready: that with its HTTP.
    """
    if obj["kind"] != "PodDisruptionBudget":
        return True
    selector = obj["spec"].get("selector")
    if selector is None or not selects(selector, group_labels(fitted.group)):
        return True
    obj["spec"]["minAvailable"] = fitted.replicas - 1
    return fitted.replicas > 1


def _group(groups: list[Object], asked: Asked) -> tuple[Object, str]:
    """The first group with devices that the artifact has programs for, or the plan asks for."""
    manifest = asked.artifact.manifest
    targets = list(dict.fromkeys(entry.target for entry in manifest.programs))
    wanted = [asked.plan.target] if asked.plan is not None else targets
    found = []
    for group in groups:
        labels = (group["template"].get("metadata") or {}).get("labels") or {}
        target = labels.get(TARGET_LABEL)
        found.append(f"{group['groupName']} ({target})")
        if target in wanted:
            return group, str(target)
    raise PlanError(
        f"{manifest.name} has programs for {', '.join(wanted) or 'no target'}, the overlay's "
        f"groups are {', '.join(found) or 'none'}; take another overlay, or build the artifact "
        "for their target"
    )


def _need(asked: Asked, target: str) -> Need:
    plan = asked.plan
    if plan is not None:
        return Need(plan.bundles, sum(each.memory_bytes for each in plan.shards), plan.placement)
    measured = asked.artifact.manifest.measured
    sizes = [each.size_bytes for key, each in measured.items() if key.startswith(f"{target}/")]
    return Need(bundles_of(target, 1, 1), max(sizes, default=0), "PACK")


def _without_claim(volume: Object) -> Object:
    if volume["name"] != _ARTIFACTS:
        return volume
    return {"name": _ARTIFACTS, "emptyDir": {}}

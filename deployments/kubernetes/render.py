"""Manifests for one model: an overlay's objects with the artifact, plan and image put in.

artifact, plan ─→ target, bundles ─→ the group with such devices, its pods sized
               └→ model's args    ─→ serveConfigV2
"""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass
from typing import Any

import fsspec

from cluster.artifact.artifact import Artifact
from cluster.errors import ConfigError, PlanError
from cluster.parallel.plan import bundles as bundles_of
from deployments.kubernetes import image_names, manifest_yaml, serving
from deployments.kubernetes.plan_file import Plan
from deployments.kubernetes.pods import containers, group_labels, selects
from deployments.kubernetes.schemas import object_name
from deployments.kubernetes.sizes import ReplicaNeed, SizedGroup, size_group
from deployments.shards.placement import DEVICES_VARIABLE

Object = dict[str, Any]

TARGET_LABEL = "headrace-target"
"""Label of a group's pods: the target of the programs that run on them."""

STORE = "headrace-store"
"""ConfigMap with the location of the artifact store."""

SERVING_IMAGE = "headrace-serving"
"""Placeholder in the overlays for the image that is put in."""

_ARTIFACTS_VOLUME = "artifacts"
_BUILD_ONLY = ("RayJob/headrace-compression", "ConfigMap/headrace-recipe")
_STORE_URI = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://[^/\s]+(/\S*)?")
_LOCAL_SCHEMES = ("file", "local", "memory")
"""fsspec's schemes for data on this machine, or in this process."""


@dataclass(frozen=True)
class RenderOptions:
    """Model to serve, and the way to serve it."""

    artifact: Artifact
    name: str
    image: str
    plan: Plan | None
    store: str | None
    """URI of the store that replicas read from; None: the claim."""

    require_signature: bool


def require_shared_store(uri: str) -> None:
    """Check that pods can reach the store at a URI; ConfigError."""
    match = _STORE_URI.fullmatch(uri)
    scheme = uri.partition("://")[0]
    if scheme in _LOCAL_SCHEMES:
        raise ConfigError(
            f"--store {uri}: pods cannot read {scheme}:// of this machine; give a bucket "
            "(s3://..., gs://...), or a directory, and replicas read from the claim"
        )
    if match is None or scheme not in fsspec.available_protocols():
        raise ConfigError(
            f"--store {uri!r}: not a valid store URI; give s3://BUCKET/PATH, gs://BUCKET/PATH, or "
            "another URI that fsspec supports"
        )


def rendered(objects: list[Object], options: RenderOptions) -> list[Object]:
    """Return the objects of an overlay for one model, build-only ones left out.

    ConfigError for an invalid image reference or an incomplete overlay. PlanError if no group can
    hold a replica.
    """
    if not image_names.is_reference(options.image):
        raise ConfigError(
            f"--image {options.image!r:.160}: not a valid image reference; give NAME@sha256:..., "
            "as the push printed it, or NAME:TAG"
        )
    copies = [copy.deepcopy(obj) for obj in objects if object_name(obj) not in _BUILD_ONLY]
    services = [obj for obj in copies if obj["kind"] == "RayService"]
    if len(services) != 1:
        raise ConfigError(f"the overlay must have exactly one RayService (given: {len(services)})")
    spec = services[0]["spec"]
    ray = spec["rayClusterConfig"]
    group, target = _matching_group(ray.get("workerGroupSpecs") or [], options)
    sized = size_group(group, _need(options, target), target)
    ray["workerGroupSpecs"] = [sized.group]
    config = serving.config_of(_model_spec(options, target, sized))
    spec["serveConfigV2"] = manifest_yaml.dump(config)
    for ray_group in (ray["headGroupSpec"], sized.group):
        _set_pod(ray_group["template"]["spec"], options, sized)
    for obj in copies:
        for _, container in containers(obj):
            if image_names.has_name(container.get("image", ""), SERVING_IMAGE):
                container["image"] = options.image
        if options.store is not None and object_name(obj) == f"ConfigMap/{STORE}":
            obj.setdefault("data", {})["HEADRACE_STORE"] = options.store
    return [obj for obj in copies if _set_budget(obj, sized)]


def _model_spec(options: RenderOptions, target: str, sized: SizedGroup) -> serving.ModelSpec:
    return serving.ModelSpec(
        name=options.name,
        artifact=str(options.artifact.id),
        target=target,
        plan=options.plan,
        require_signature=options.require_signature,
        replicas=sized.replicas,
        max_replicas=sized.max_replicas,
    )


def _set_pod(pod: Object, options: RenderOptions, sized: SizedGroup) -> None:
    """Put image, devices and store into the pod of a Ray group."""
    container = pod["containers"][0]
    container["image"] = options.image
    if options.plan is not None and options.plan.cut:
        variables = container.setdefault("env", [])
        variables.append({"name": DEVICES_VARIABLE, "value": sized.devices})
    if options.store is not None:
        pod["volumes"] = [_without_claim(volume) for volume in pod.get("volumes") or []]


def _set_budget(obj: Object, sized: SizedGroup) -> bool:
    """Set the budget of our replicas' pods to all but one; return False for a single replica.

    Of a replica of several pods only one is ever ready: the one with its HTTP endpoint.
    """
    if obj["kind"] != "PodDisruptionBudget":
        return True
    selector = obj["spec"].get("selector")
    if selector is None or not selects(selector, group_labels(sized.group)):
        return True
    obj["spec"]["minAvailable"] = sized.replicas - 1
    return sized.replicas > 1


def _matching_group(groups: list[Object], options: RenderOptions) -> tuple[Object, str]:
    """Return the first group of a target that the plan names, or the artifact has programs for."""
    manifest = options.artifact.manifest
    targets = list(dict.fromkeys(entry.target for entry in manifest.programs))
    if options.plan is not None:
        targets = [options.plan.target]
    listed = []
    for group in groups:
        labels = (group["template"].get("metadata") or {}).get("labels") or {}
        target = labels.get(TARGET_LABEL)
        listed.append(f"{group['groupName']} ({target})")
        if target in targets:
            return group, str(target)
    raise PlanError(
        f"{manifest.name} has programs for {', '.join(targets) or 'no target'}, the overlay's "
        f"groups are {', '.join(listed) or 'none'}; choose another overlay, or build the artifact "
        "for their target"
    )


def _need(options: RenderOptions, target: str) -> ReplicaNeed:
    plan = options.plan
    if plan is not None:
        memory_bytes = sum(shard.memory_bytes for shard in plan.shards)
        return ReplicaNeed(plan.bundles, memory_bytes, plan.placement)
    measured = options.artifact.manifest.measured
    sizes = [value.size_bytes for key, value in measured.items() if key.startswith(f"{target}/")]
    return ReplicaNeed(bundles_of(target, 1, 1), max(sizes, default=0), "PACK")


def _without_claim(volume: Object) -> Object:
    if volume["name"] != _ARTIFACTS_VOLUME:
        return volume
    return {"name": _ARTIFACTS_VOLUME, "emptyDir": {}}

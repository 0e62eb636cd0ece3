"""Pods of an object, and selectors over their labels.

RayService, RayJob, RayCluster → its Ray cluster → head group, worker groups ─┐
RayJob → the submitter; Job, Deployment, ... → its template                  ─┴→ pods → containers
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Object = dict[str, Any]

_CLUSTER_FIELD = {"RayService": "rayClusterConfig", "RayJob": "rayClusterSpec"}
_TEMPLATES = {
    "RayJob": ("submitterPodTemplate",),
    "Job": ("template",),
    "Deployment": ("template",),
    "StatefulSet": ("template",),
    "DaemonSet": ("template",),
    "CronJob": ("jobTemplate", "spec", "template"),
}
"""Path of the pod template below ``spec``."""


def cluster(obj: Object) -> tuple[str, Object] | None:
    """Return path and content of an object's Ray cluster, None if it has none."""
    spec = obj.get("spec") or {}
    if obj["kind"] == "RayCluster":
        return "spec", spec
    field = _CLUSTER_FIELD.get(obj["kind"])
    return (f"spec.{field}", spec[field]) if field and spec.get(field) else None


def groups(obj: Object) -> Iterator[tuple[str, Object]]:
    """Yield path and content of the head group and the worker groups of an object's Ray cluster."""
    if (ray := cluster(obj)) is not None:
        path, spec = ray
        yield f"{path}.headGroupSpec", spec["headGroupSpec"]
        for index, group in enumerate(spec.get("workerGroupSpecs") or []):
            yield f"{path}.workerGroupSpecs[{index}]", group


def templates(obj: Object) -> Iterator[tuple[str, Object]]:
    """Yield path and content of each pod template of an object, Ray's first."""
    for path, group in groups(obj):
        yield f"{path}.template", group.get("template") or {}
    fields = _TEMPLATES.get(obj["kind"], ())
    template: Object | None = obj.get("spec") if fields else None
    for field in fields:
        template = (template or {}).get(field)
    if template:
        yield ".".join(("spec", *fields)), template
    if obj["kind"] == "Pod":
        yield "(top level)", obj


def containers(obj: Object) -> Iterator[tuple[str, Object]]:
    """Yield path and content of each container of an object's pods."""
    for path, template in templates(obj):
        spec = template.get("spec") or {}
        for field in ("initContainers", "containers"):
            for index, container in enumerate(spec.get(field) or []):
                yield f"{path}.spec.{field}[{index}]", container


def group_labels(group: Object) -> dict[str, str]:
    """Return the labels of a worker group's pods, those that KubeRay adds included."""
    labels = ((group.get("template") or {}).get("metadata") or {}).get("labels") or {}
    kuberay = {"ray.io/is-ray-node": "yes", "ray.io/node-type": "worker"}
    return {**labels, **kuberay, "ray.io/group": group.get("groupName", "")}


def ray_container(group: Object) -> Object:
    """Return the first container of a group's pod, in which Ray runs."""
    listed = pod_spec(group).get("containers") or [{}]
    return dict(listed[0])


def pod_spec(group: Object) -> Object:
    """Return the pod spec of a group."""
    return dict(group.get("template", {}).get("spec") or {})


def environment(container: Object) -> dict[str, Object]:
    """Return the ``env`` entries of a container by name."""
    return {entry["name"]: entry for entry in container.get("env") or []}


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Return whether a LabelSelector matches these labels; an empty selector matches all."""
    matched = (selector.get("matchLabels") or {}).items() <= labels.items()
    return matched and all(
        _matches(expression, labels) for expression in selector.get("matchExpressions") or ()
    )


def _matches(expression: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    value, values = labels.get(expression["key"]), expression.get("values") or ()
    match expression["operator"]:
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case _:  # DoesNotExist
            return value is None

"""The pods that an object brings: of a Ray cluster's groups, of a Job, of whatever makes pods.

RayService, RayJob, RayCluster → its Ray cluster → head group, worker groups ─┐
RayJob → the submitter; Job, Deployment, ... → its template                  ─┴→ pods → containers
"""

from __future__ import annotations

from collections.abc import Iterator
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
"""Below ``spec``."""


def cluster(obj: Object) -> tuple[str, Object] | None:
    """The path and content of an object's Ray cluster, if it has one."""
    spec = obj.get("spec") or {}
    if obj["kind"] == "RayCluster":
        return "spec", spec
    field = _CLUSTER_FIELD.get(obj["kind"])
    return (f"spec.{field}", spec[field]) if field and spec.get(field) else None


def groups(obj: Object) -> Iterator[tuple[str, Object]]:
    """Path and content of the head group and the worker groups of an object's Ray cluster."""
    if (found := cluster(obj)) is not None:
        path, spec = found
        yield f"{path}.headGroupSpec", spec["headGroupSpec"]
        for index, group in enumerate(spec.get("workerGroupSpecs") or []):
            yield f"{path}.workerGroupSpecs[{index}]", group


def templates(obj: Object) -> Iterator[tuple[str, Object]]:
    """Path and content of the template of every pod that an object brings, Ray's first."""
    for path, group in groups(obj):
        yield f"{path}.template", group.get("template") or {}
    fields = _TEMPLATES.get(obj["kind"], ())
    found: Object | None = obj.get("spec") if fields else None
    for field in fields:
        found = (found or {}).get(field)
    if found:
        yield ".".join(("spec", *fields)), found
    if obj["kind"] == "Pod":
        yield "(top level)", obj


def containers(obj: Object) -> Iterator[tuple[str, Object]]:
    """Path and content of every container of an object's pods."""
    for path, template in templates(obj):
        spec = template.get("spec") or {}
        for field in ("initContainers", "containers"):
            for index, container in enumerate(spec.get(field) or []):
                yield f"{path}.spec.{field}[{index}]", container


def group_labels(group: Object) -> dict[str, str]:
    """Labels of the pods of a worker group, those that KubeRay adds among them."""
    own = ((group.get("template") or {}).get("metadata") or {}).get("labels") or {}
    kuberay = {"ray.io/is-ray-node": "yes", "ray.io/node-type": "worker"}
    return {**own, **kuberay, "ray.io/group": group.get("groupName", "")}


def ray_container(group: Object) -> Object:
    """The container Ray runs in: the first."""
    found = pod_spec(group).get("containers") or [{}]
    return dict(found[0])


def pod_spec(group: Object) -> Object:
    """A group's pod."""
    return dict(group.get("template", {}).get("spec") or {})


def environment(container: Object) -> dict[str, Object]:
    """The variables written out in a container, by name."""
    return {each["name"]: each for each in container.get("env") or []}

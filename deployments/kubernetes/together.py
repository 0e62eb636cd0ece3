"""What several objects together can be wrong about, each of them being right.

Each rule takes all objects of an overlay and yields what is wrong, with the object's name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from deployments.kubernetes import serving, structure
from deployments.kubernetes.pods import group_labels, templates
from deployments.kubernetes.selectors import selects

Object = dict[str, Any]

_OURS = "headrace-"
_CLAIM = "PersistentVolumeClaim"
_INCREMENTAL = "NewClusterWithIncrementalUpgrade"


def budgets(objects: Sequence[Object]) -> Iterator[str]:
    """A budget that no pod may leave: a node drain would wait for ever.

    A pod of replicas is ready, and counts, while a replica is on it.
    """
    for budget in (each for each in objects if each["kind"] == "PodDisruptionBudget"):
        least, selector = budget["spec"].get("minAvailable"), budget["spec"].get("selector")
        if least is None or selector is None:
            continue
        for service in (each for each in objects if each["kind"] == "RayService"):
            ray = service["spec"]["rayClusterConfig"]
            grows = bool(ray.get("enableInTreeAutoscaling"))
            groups = ray.get("workerGroupSpecs") or []
            pods = [_most(g, grows) for g in groups if selects(selector, group_labels(g))]
            config = yaml.safe_load(service["spec"]["serveConfigV2"])
            ready = min(sum(pods), serving.pods_with_replicas(config))
            if pods and least >= ready:
                yield (
                    f"{structure.name(budget)}: spec.minAvailable: must be under {ready}, the pods "
                    "that have a replica and so are ready, or draining a node waits for ever "
                    f"(given: {least}); lower it, or raise the replicas in serveConfigV2 and keep "
                    "them apart with max_replicas_per_node: 1"
                )


def claims(objects: Sequence[Object]) -> Iterator[str]:
    """Claims of ours that pods name and no object is; others' may be in the cluster already."""
    there = {each["metadata"]["name"] for each in objects if each["kind"] == _CLAIM}
    for obj in objects:
        for path, template in templates(obj):
            for index, volume in enumerate((template.get("spec") or {}).get("volumes") or []):
                claim = (volume.get("persistentVolumeClaim") or {}).get("claimName", "")
                if claim.startswith(_OURS) and claim not in there:
                    yield (
                        f"{structure.name(obj)}: {path}.spec.volumes[{index}]: there is no claim "
                        f"{claim}: with a bucket there is none; leave out what mounts it, such as "
                        "components/loader"
                    )


def ways_in(objects: Sequence[Object]) -> Iterator[str]:
    """An ingress to the Service that stays with the old cluster while an upgrade empties it."""
    emptied = {
        f"{each['metadata']['name']}-serve-svc"
        for each in objects
        if each["kind"] == "RayService"
        if (each["spec"].get("upgradeStrategy") or {}).get("type") == _INCREMENTAL
    }
    for ingress in (each for each in objects if each["kind"] == "Ingress"):
        backends = [ingress["spec"].get("defaultBackend") or {}]
        for rule in ingress["spec"].get("rules") or []:
            backends += [path["backend"] for path in (rule.get("http") or {}).get("paths") or []]
        names = {(each.get("service") or {}).get("name", "") for each in backends}
        for name in sorted(names & emptied):
            yield (
                f"{structure.name(ingress)}: leads to {name}, which stays with the old cluster of "
                f"an upgrade ({_INCREMENTAL}) until that has no replica left; lead clients to the "
                "Gateway, and leave out components/ingress"
            )


def _most(group: Object, grows: bool) -> int:
    """Pods that a group has, if as many as it may are asked for."""
    least, most = int(group.get("minReplicas") or 0), int(group.get("maxReplicas") or 0)
    return most if grows else max(least, min(int(group.get("replicas") or 0), most))


RULES_TOGETHER = (budgets, claims, ways_in)

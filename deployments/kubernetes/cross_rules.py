"""Rules across the objects of an overlay, each of which is valid by itself.

Each rule takes all objects and yields its problems, each with the object's name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from deployments.kubernetes import manifest_yaml, schemas, serving
from deployments.kubernetes.pods import group_labels, selects, templates

Object = dict[str, Any]

_OUR_PREFIX = "headrace-"
_INCREMENTAL = "NewClusterWithIncrementalUpgrade"


def budgets_allow_drains(objects: Sequence[Object]) -> Iterator[str]:
    """Check that a disruption budget lets a pod go: otherwise a node drain never ends.

    A pod of replicas is ready, and counts for the budget, while a replica runs on it.
    """
    for budget in _of_kind(objects, "PodDisruptionBudget"):
        least, selector = budget["spec"].get("minAvailable"), budget["spec"].get("selector")
        if least is None or selector is None:
            continue
        for service in _of_kind(objects, "RayService"):
            ray = service["spec"]["rayClusterConfig"]
            autoscaled = bool(ray.get("enableInTreeAutoscaling"))
            groups = ray.get("workerGroupSpecs") or []
            pods = [_max_pods(g, autoscaled) for g in groups if selects(selector, group_labels(g))]
            config = manifest_yaml.load(service["spec"]["serveConfigV2"], "serveConfigV2")
            ready = min(sum(pods), serving.pods_with_replicas(config))
            if pods and least >= ready:
                yield (
                    f"{schemas.object_name(budget)}: spec.minAvailable: must be under {ready}, the "
                    "number of pods with a replica, which are the ready ones; otherwise a node "
                    f"drain never ends (given: {least}); lower it, or raise the replicas in "
                    "serveConfigV2 and keep them apart with max_replicas_per_node: 1"
                )


def claims_exist(objects: Sequence[Object]) -> Iterator[str]:
    """Check that our claims exist where pods mount them; other claims may be in the cluster."""
    claims = {claim["metadata"]["name"] for claim in _of_kind(objects, "PersistentVolumeClaim")}
    for obj in objects:
        for path, template in templates(obj):
            for index, volume in enumerate((template.get("spec") or {}).get("volumes") or []):
                claim = (volume.get("persistentVolumeClaim") or {}).get("claimName", "")
                if claim.startswith(_OUR_PREFIX) and claim not in claims:
                    yield (
                        f"{schemas.object_name(obj)}: {path}.spec.volumes[{index}]: claim {claim} "
                        "does not exist: a bucket replaces it; remove what mounts it, such as "
                        "components/loader"
                    )


def ingresses_reach_replicas(objects: Sequence[Object]) -> Iterator[str]:
    """Check that no ingress leads to a Service that an incremental upgrade empties."""
    emptied = {
        f"{service['metadata']['name']}-serve-svc"
        for service in _of_kind(objects, "RayService")
        if (service["spec"].get("upgradeStrategy") or {}).get("type") == _INCREMENTAL
    }
    for ingress in _of_kind(objects, "Ingress"):
        backends = [ingress["spec"].get("defaultBackend") or {}]
        for rule in ingress["spec"].get("rules") or []:
            backends += [path["backend"] for path in (rule.get("http") or {}).get("paths") or []]
        names = {(backend.get("service") or {}).get("name", "") for backend in backends}
        for name in sorted(names & emptied):
            yield (
                f"{schemas.object_name(ingress)}: leads to {name}, which stays with the old "
                f"cluster of an upgrade ({_INCREMENTAL}) until that has no replica; lead clients "
                "to the Gateway, and remove components/ingress"
            )


def _of_kind(objects: Sequence[Object], kind: str) -> Iterator[Object]:
    return (obj for obj in objects if obj["kind"] == kind)


def _max_pods(group: Object, autoscaled: bool) -> int:
    """Return the pods of a group under the highest load that it may serve."""
    low, high = int(group.get("minReplicas") or 0), int(group.get("maxReplicas") or 0)
    return high if autoscaled else max(low, min(int(group.get("replicas") or 0), high))


CROSS_RULES = (budgets_allow_drains, claims_exist, ingresses_reach_replicas)
"""All rules across objects."""

"""Overlays and their objects, for the tests that check all of them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from deployments.kubernetes.pods import groups, pod_spec

Objects = list[dict[str, Any]]

# Objects from the cluster's operator or from Kubernetes: k8s/README.md lists them.
EXTERNAL = {
    "headrace-ray-token",
    "headrace-api-keys",
    "headrace-trusted-keys",
    "headrace-store-credentials",
    "headrace-redis",
    "headrace-tls",
    "kube-root-ca.crt",
}
NAMES = ("cpu-dev", "gpu", "ha/redis", "ha/rocksdb", "incremental-upgrade", "kueue")
PARTS = ("api-keys", "ingress", "loader", "lost-nodes", "object-store", "three-replicas")
# Labels of foreign pods in our namespace: clients, Redis, a gateway's.
OTHERS = (
    {"headrace-client": "true"},
    {"app.kubernetes.io/name": "redis"},
    {"gateway.networking.k8s.io/gateway-name": "headrace-gateway"},
)
PLACES = {
    "HEAD_POD": "spec.rayClusterConfig.headGroupSpec.template.spec",
    "POD": "spec.rayClusterConfig.workerGroupSpecs.0.template.spec",
    "GROUP": "spec.rayClusterConfig.workerGroupSpecs.0",
    "CLUSTER": "spec.rayClusterConfig",
}
"""Short names at the start of a path, for :func:`changed`."""


def with_digests(objects: Objects) -> Objects:
    """Return the objects with images by digest, as `render` writes them."""
    text = yaml.safe_dump_all(objects)
    for name in ("headrace-serving", "headrace-compression"):
        text = text.replace(f"image: {name}\n", f"image: {name}@sha256:{'0' * 64}\n")
    return list(yaml.safe_load_all(text))


def object_of_kind(objects: Objects, kind: str) -> dict[str, Any]:
    """Return a copy of the one object of a kind, with images by digest."""
    (obj,) = [obj for obj in objects if obj["kind"] == kind]
    (copied,) = with_digests([obj])
    return copied


def changed(
    obj: dict[str, Any], changes: Mapping[str, Any], removals: Sequence[str] = ()
) -> dict[str, Any]:
    """Return a copy with other values at some paths (``GROUP.replicas``), and without others."""
    result = copy.deepcopy(obj)
    for path, value in changes.items():
        parent, last = _parent(result, path)
        parent[last] = value
    for path in removals:
        parent, last = _parent(result, path)
        del parent[last]
    return result


def _parent(obj: Any, path: str) -> tuple[Any, Any]:
    first, _, rest = path.partition(".")
    whole = f"{PLACES.get(first, first)}.{rest}".rstrip(".")
    *above, last = [int(part) if part.isdecimal() else part for part in whole.split(".")]
    for part in above:
        obj = obj[part]
    return obj, last


def pods(obj: dict[str, Any]) -> Iterator[tuple[dict[str, str], dict[str, Any]]]:
    """Yield labels and spec of all pods of a Ray object."""
    for _, group in groups(obj):
        yield group["template"]["metadata"]["labels"], pod_spec(group)
    if submitter := obj["spec"].get("submitterPodTemplate"):
        yield submitter["metadata"]["labels"], submitter["spec"]


def all_pods(objects: Objects) -> list[tuple[dict[str, str], dict[str, Any]]]:
    """Return labels and spec of the pods of all Ray objects."""
    return [pod for obj in objects if obj["kind"].startswith("Ray") for pod in pods(obj)]

"""The overlays and what is in them, for the tests that look at all of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from deployments.kubernetes.pods import groups, pod_spec

Objects = list[dict[str, Any]]

# Made by the operator of the cluster beforehand, or by Kubernetes itself: k8s/README.md lists them.
MADE_BEFOREHAND = {
    "headrace-ray-token", "headrace-api-keys", "headrace-trusted-keys",
    "headrace-store-credentials", "headrace-redis", "headrace-tls", "kube-root-ca.crt",
}  # fmt: skip
NAMES = ("cpu-dev", "gpu", "ha/redis", "ha/rocksdb", "incremental-upgrade", "kueue")
PARTS = ("api-keys", "ingress", "loader", "lost-nodes", "object-store", "three-replicas")
# Labels of pods that are not ours, in our namespace: clients, Redis, a gateway's.
OTHERS = (
    {"headrace-client": "true"},
    {"app.kubernetes.io/name": "redis"},
    {"gateway.networking.k8s.io/gateway-name": "headrace-gateway"},
)


def digest(objects: Objects) -> Objects:
    """The same with images by digest, as `render` would have them."""
    text = yaml.safe_dump_all(objects)
    for name in ("headrace-serving", "headrace-compression"):
        text = text.replace(f"image: {name}\n", f"image: {name}@sha256:{'0' * 64}\n")
    return list(yaml.safe_load_all(text))


def pods(obj: dict[str, Any]) -> Iterator[tuple[dict[str, str], dict[str, Any]]]:
    """Labels and content of all pods that an object brings."""
    for _, group in groups(obj):
        yield group["template"]["metadata"]["labels"], pod_spec(group)
    if submitter := obj["spec"].get("submitterPodTemplate"):
        yield submitter["metadata"]["labels"], submitter["spec"]


def all_pods(objects: Objects) -> list[tuple[dict[str, str], dict[str, Any]]]:
    return [pod for obj in objects if obj["kind"].startswith("Ray") for pod in pods(obj)]

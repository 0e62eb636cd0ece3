"""What Headrace asks of its manifests beyond what Kubernetes and KubeRay would take."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from deployments.drain import DEADLINE_S
from deployments.kubernetes.rules import cluster, groups, pod_spec

Object = dict[str, Any]

_DIGEST = re.compile(r"[^@\s]+@sha256:[0-9a-f]{64}")


def by_digest(image: str) -> bool:
    """If an image is named by what it contains, and not by a name that may move."""
    return _DIGEST.fullmatch(image) is not None


def tokens(obj: Object) -> Iterator[str]:
    """Whoever reaches a dashboard or GCS can run code: only with the token, one that stays."""
    found = cluster(obj)
    if found is None:
        return
    path, spec = found
    options = spec.get("authOptions") or {}
    if options.get("mode") != "token":
        yield (f"{path}.authOptions.mode: must be token, or whoever reaches the head runs code")
    if not options.get("secretName"):
        yield (
            f"{path}.authOptions.secretName: is missing; KubeRay would make another token at every "
            "upgrade"
        )


def drains(obj: Object) -> Iterator[str]:
    """Pods of a service get the time to answer what they have begun."""
    if obj["kind"] != "RayService":
        return
    for path, group in groups(obj):
        seconds = pod_spec(group).get("terminationGracePeriodSeconds") or 30
        if seconds <= DEADLINE_S:
            yield (
                f"{path}.template.spec.terminationGracePeriodSeconds: must be over {DEADLINE_S}, "
                f"what draining takes (given: {seconds})"
            )


def digests(obj: Object) -> Iterator[str]:
    """A head that is replaced must come back as what it was: where the GCS outlives it, images
    are named by digest."""
    found = cluster(obj)
    if found is None or not found[1].get("gcsFaultToleranceOptions"):
        return
    for path, container in containers(obj):
        if not by_digest(container.get("image", "")):
            yield (
                f"{path}.image: {container.get('image')!r} has no digest; give NAME@sha256:..., as "
                "the push printed it, or a head that restarts may be another program"
            )


def contained(obj: Object) -> Iterator[str]:
    """Containers run as nobody in particular, and write only where a volume is mounted."""
    for path, container in [*containers(obj), *_autoscaler(obj)]:
        given = container.get("securityContext") or {}
        wanted = {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
        }
        for field, value in wanted.items():
            if given.get(field) is not value:
                yield f"{path}.securityContext.{field}: must be {str(value).lower()}"
        if (given.get("capabilities") or {}).get("drop") != ["ALL"]:
            yield f"{path}.securityContext.capabilities.drop: must be [ALL]"


def disruption(obj: Object) -> Iterator[str]:
    """Kubernetes cannot take a share of pods that KubeRay owns."""
    if obj["kind"] != "PodDisruptionBudget":
        return
    for field in ("minAvailable", "maxUnavailable"):
        value = obj["spec"].get(field)
        if value is not None and type(value) is not int:
            yield f"spec.{field}: must be an integer (given: {value!r})"
        if field == "maxUnavailable" and value is not None:
            yield "spec.maxUnavailable: does not work for pods of KubeRay's; give minAvailable"


def _autoscaler(obj: Object) -> Iterator[tuple[str, Object]]:
    """The container that KubeRay adds to the head, as far as it is ours to say."""
    found = cluster(obj)
    if found is not None and found[1].get("enableInTreeAutoscaling"):
        yield f"{found[0]}.autoscalerOptions", found[1].get("autoscalerOptions") or {}


def containers(obj: Object) -> Iterator[tuple[str, Object]]:
    """Path and content of every container of an object's pods, the submitter's among them."""
    for path, group in groups(obj):
        spec = pod_spec(group)
        for field in ("initContainers", "containers"):
            for index, container in enumerate(spec.get(field) or []):
                yield f"{path}.template.spec.{field}[{index}]", container
    submitter = obj.get("spec", {}).get("submitterPodTemplate") or {}
    for index, container in enumerate((submitter.get("spec") or {}).get("containers") or []):
        yield f"spec.submitterPodTemplate.spec.containers[{index}]", container


OWN_RULES = (tokens, drains, digests, contained, disruption)

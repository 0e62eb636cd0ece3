"""What Headrace asks of its manifests beyond what Kubernetes and KubeRay would take."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cluster.errors import ConfigError
from deployments.kubernetes import images
from deployments.kubernetes.pods import (
    cluster,
    containers,
    environment,
    groups,
    pod_spec,
    ray_container,
)
from deployments.ray.time_limits import node_drain_s, replica_stop_s

Object = dict[str, Any]

_RAY_STOP_S = 20  # with the drain's own start


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
        try:
            drain_s = node_drain_s(_written(group))
        except ConfigError as error:
            yield f"{path}.template.spec.containers[0].env: {error}"
            continue
        if "workerGroupSpecs" in path and not ray_container(group).get("lifecycle"):
            yield (
                f"{path}.template.spec.containers[0].lifecycle: is missing; "
                "preStop: {exec: {command: [python, -m, deployments.drain]}} moves replicas away"
            )
        if seconds < drain_s + _RAY_STOP_S:
            yield (
                f"{path}.template.spec.terminationGracePeriodSeconds: must be "
                f"{drain_s + _RAY_STOP_S:.0f} at least, what draining takes and Ray's own stop "
                f"(given: {seconds})"
            )


def _written(group: Object) -> dict[str, str]:
    """The variables that a group's Ray has by its manifest, those of Secrets and the like apart."""
    listed = environment(ray_container(group)).items()
    return {name: str(each["value"]) for name, each in listed if "value" in each}


def digests(obj: Object) -> Iterator[str]:
    """A head that is replaced must come back as what it was: where the GCS outlives it, images
    are named by digest."""
    found = cluster(obj)
    if found is None or not found[1].get("gcsFaultToleranceOptions"):
        return
    for path, container in containers(obj):
        if not images.by_digest(container.get("image", "")):
            yield (
                f"{path}.image: {container.get('image')!r} has no digest; give NAME@sha256:..., as "
                "the push printed it, or a head that restarts may be another program"
            )


def named_images(obj: Object) -> Iterator[str]:
    """What no container engine takes for an image."""
    for path, container in containers(obj):
        image = container.get("image", "")
        if image and not images.is_reference(image):
            yield (
                f"{path}.image: {image!r:.160}: no image is named so; give NAME@sha256:... or "
                "NAME:TAG"
            )


def outlives(obj: Object) -> Iterator[str]:
    """The old cluster of an upgrade stays until what it has begun is answered: KubeRay deletes its
    head and its pods at once, so that none of them can be drained."""
    if obj["kind"] != "RayService":
        return
    least = 0
    for _, group in groups(obj):
        try:
            least = max(least, round(replica_stop_s(_written(group))))
        except ConfigError:
            return  # said of the drain
    given = obj["spec"].get("rayClusterDeletionDelaySeconds", 60)  # KubeRay's own
    if given <= least:
        yield (
            f"spec.rayClusterDeletionDelaySeconds: must be over {least}, the time in which load "
            f"balancers hear of an upgrade and that of the longest request (given: {given})"
        )


def contained(obj: Object) -> Iterator[str]:
    """Our containers run as nobody in particular, and write only where a volume is mounted."""
    labels = obj["metadata"].get("labels") or {}
    if cluster(obj) is None and labels.get("app.kubernetes.io/part-of") != "headrace":
        return
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


OWN_RULES = (tokens, drains, digests, named_images, outlives, contained, disruption)

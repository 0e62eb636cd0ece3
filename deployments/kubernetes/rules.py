"""Rules of Headrace for one object, beyond its fields and types.

Each rule takes an object with its defaults filled in and yields its problems, each with the path.
A rule yields nothing for a kind that it does not concern.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cluster.errors import ConfigError
from deployments.kubernetes import image_names
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

_RAY_STOP_S = 20  # includes the start of the drain
_KUBERAY_DELETION_DELAY_S = 60  # KubeRay's default
_KUBERNETES_GRACE_PERIOD_S = 30  # Kubernetes' default
_RAY_RESOURCES = {"num-cpus", "num-gpus", "memory", "resources"}
_CONTAINER_SECURITY = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
}


def group_containers(obj: Object) -> Iterator[str]:
    """Check that each group has a container: ``render`` sets the image of the first one."""
    for path, group in groups(obj):
        if not pod_spec(group).get("containers"):
            yield f"{path}.template.spec.containers: must have at least one container (given: none)"


def group_sizes(obj: Object) -> Iterator[str]:
    """Check the numbers and resources of worker groups that ``render`` computes.

    KubeRay checks the same, but its operator reports it only as an event in the cluster.
    """
    for path, group in groups(obj):
        both = sorted(_RAY_RESOURCES & set(group.get("rayStartParams") or {}))
        if both and group.get("resources"):
            yield (
                f"{path}.resources: must not be given beside rayStartParams {', '.join(both)}, "
                "which `headrace k8s render` sets; remove resources"
            )
        if path.endswith("headGroupSpec"):
            continue
        low, high = (group.get(field) or 0 for field in ("minReplicas", "maxReplicas"))
        if not 0 <= low <= high:
            yield f"{path}: must have 0 ≤ minReplicas ≤ maxReplicas (given: {low}, {high})"


def token_authentication(obj: Object) -> Iterator[str]:
    """Check for a fixed token: without one, clients of the dashboard or GCS can run code."""
    ray = cluster(obj)
    if ray is None:
        return
    path, spec = ray
    options = spec.get("authOptions") or {}
    if options.get("mode") != "token":
        yield (
            f"{path}.authOptions.mode: must be token (given: {options.get('mode')!r}); otherwise "
            "every client that reaches the head can run code"
        )
    if not options.get("secretName"):
        yield (
            f"{path}.authOptions.secretName: required field is missing; KubeRay would make a "
            "different token at every upgrade"
        )


def drain_time(obj: Object) -> Iterator[str]:
    """Check that pods of a service have the time to finish their in-flight requests."""
    if obj["kind"] != "RayService":
        return
    for path, group in groups(obj):
        pod = f"{path}.template.spec"
        seconds = pod_spec(group).get("terminationGracePeriodSeconds") or _KUBERNETES_GRACE_PERIOD_S
        try:
            drain_s = node_drain_s(_literal_variables(group))
        except ConfigError as error:
            yield f"{pod}.containers[0].env: {error}"
            continue
        if "workerGroupSpecs" in path and not ray_container(group).get("lifecycle"):
            yield (
                f"{pod}.containers[0].lifecycle: required field is missing; add "
                "preStop: {exec: {command: [python, -P, -m, deployments.drain]}}, which moves "
                "replicas to other pods"
            )
        if seconds < drain_s + _RAY_STOP_S:
            yield (
                f"{pod}.terminationGracePeriodSeconds: must be at least "
                f"{drain_s + _RAY_STOP_S:.0f}, the time of a drain and of Ray's own stop "
                f"(given: {seconds})"
            )


def _literal_variables(group: Object) -> dict[str, str]:
    """Return the variables of a group's Ray container that have a value in the manifest."""
    entries = environment(ray_container(group)).items()
    return {name: str(entry["value"]) for name, entry in entries if "value" in entry}


def image_digests(obj: Object) -> Iterator[str]:
    """Check for images by digest where the GCS outlives the head.

    A head that is replaced must run the same program as before.
    """
    ray = cluster(obj)
    if ray is None or not ray[1].get("gcsFaultToleranceOptions"):
        return
    for path, container in containers(obj):
        image = container.get("image", "")
        if not image_names.has_digest(image):
            yield (
                f"{path}.image: {image!r} has no digest; give NAME@sha256:..., as the push printed "
                "it, or a restarted head may run another program"
            )


def image_references(obj: Object) -> Iterator[str]:
    """Check that container engines accept the images' names."""
    for path, container in containers(obj):
        image = container.get("image", "")
        if image and not image_names.is_reference(image):
            yield (
                f"{path}.image: {image!r:.160} is not a valid image reference; give "
                "NAME@sha256:... or NAME:TAG"
            )


def deletion_delay(obj: Object) -> Iterator[str]:
    """Check that the old cluster of an upgrade outlives its in-flight requests.

    KubeRay deletes its head and its other pods at the same time, so none of them can be drained.
    """
    if obj["kind"] != "RayService":
        return
    stop_s = 0
    for _, group in groups(obj):
        try:
            stop_s = max(stop_s, round(replica_stop_s(_literal_variables(group))))
        except ConfigError:
            return  # drain_time reports it
    delay_s = obj["spec"].get("rayClusterDeletionDelaySeconds", _KUBERAY_DELETION_DELAY_S)
    if delay_s <= stop_s:
        yield (
            f"spec.rayClusterDeletionDelaySeconds: must be over {stop_s}, the time in which load "
            f"balancers learn of an upgrade plus that of the longest request (given: {delay_s})"
        )


def container_security(obj: Object) -> Iterator[str]:
    """Check that our containers run unprivileged and write only to mounted volumes."""
    labels = obj["metadata"].get("labels") or {}
    if cluster(obj) is None and labels.get("app.kubernetes.io/part-of") != "headrace":
        return
    for path, container in [*containers(obj), *_autoscaler(obj)]:
        context = container.get("securityContext") or {}
        for field, value in _CONTAINER_SECURITY.items():
            if context.get(field) is not value:
                yield (
                    f"{path}.securityContext.{field}: must be {str(value).lower()} "
                    f"(given: {context.get(field)!r})"
                )
        drop = (context.get("capabilities") or {}).get("drop")
        if drop != ["ALL"]:
            yield f"{path}.securityContext.capabilities.drop: must be [ALL] (given: {drop!r})"


def _autoscaler(obj: Object) -> Iterator[tuple[str, Object]]:
    """Yield the options of the autoscaler's container, which KubeRay adds to the head."""
    ray = cluster(obj)
    if ray is not None and ray[1].get("enableInTreeAutoscaling"):
        yield f"{ray[0]}.autoscalerOptions", ray[1].get("autoscalerOptions") or {}


def budget_fields(obj: Object) -> Iterator[str]:
    """Check for an integer minAvailable: Kubernetes cannot take a share of KubeRay's pods."""
    if obj["kind"] != "PodDisruptionBudget":
        return
    for field in ("minAvailable", "maxUnavailable"):
        value = obj["spec"].get(field)
        if value is not None and type(value) is not int:
            yield f"spec.{field}: must be an integer (given: {value!r})"
    if (value := obj["spec"].get("maxUnavailable")) is not None:
        yield (
            f"spec.maxUnavailable: has no effect on KubeRay's pods (given: {value!r}); give "
            "minAvailable"
        )


RENDER_RULES = (group_containers,)
"""Rules for the objects of an overlay that ``render`` depends on."""

RULES = (
    group_containers,
    group_sizes,
    token_authentication,
    drain_time,
    image_digests,
    image_references,
    deletion_delay,
    container_security,
    budget_fields,
)
"""All rules for one object."""

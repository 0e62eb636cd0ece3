"""What KubeRay v1.7.0 refuses though its CRDs' schemas allow it: CEL rules and its own checks.

Each rule takes an object, defaults filled in, and yields what is wrong with it, with the path.
They follow what the operator does when it validates a RayService, RayJob or RayCluster; one that
it refuses stays as it is in the cluster, with an event that nobody reads.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

from deployments.kubernetes.pods import cluster, environment, groups, pod_spec, ray_container

Object = dict[str, Any]

NAME_LENGTH = {"RayService": 47, "RayJob": 47, "RayCluster": 53}
"""KubeRay appends to a name, and what it makes of it must be the name of a Service."""

_LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_MANAGERS = ("ray.io/kuberay-operator", "kueue.x-k8s.io/multikueue")
_TRUE = ("1", "true")
_GCS_PATH = "/data/gcs"
_REDIS_ONLY = ("redisAddress", "redisUsername", "redisPassword", "externalStorageNamespace")
_MODES = ("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode")


def names(obj: Object) -> Iterator[str]:
    """A name short enough for what KubeRay makes of it, and fit for a Service."""
    most = NAME_LENGTH.get(obj["kind"])
    name = obj["metadata"].get("name", "")
    if most is None:
        return
    if len(name) > most:
        yield f"metadata.name: at most {most} characters, {name!r} has {len(name)}"
    if not _LABEL.fullmatch(name):
        yield f"metadata.name: lower case letters, digits and -, a letter first (given: {name!r})"


def managed_by(obj: Object) -> Iterator[str]:
    """CEL: who may look after the object."""
    found = cluster(obj)
    for path, spec in [("spec", obj.get("spec") or {}), *([found] if found else [])]:
        manager = spec.get("managedBy")
        if manager is not None and manager not in _MANAGERS:
            yield f"{path}.managedBy: must be {' or '.join(_MANAGERS)} (given: {manager!r})"


def worker_groups(obj: Object) -> Iterator[str]:
    """Groups: names of their own, min ≤ max, resources given once.

    `replicas` may be anything: KubeRay keeps it between the two.
    """
    found = cluster(obj)
    if found is None:
        return
    seen: set[str] = set()
    scales = found[1].get("enableInTreeAutoscaling", False)
    for path, group in groups(obj):
        start = group.get("rayStartParams") or {}
        if not pod_spec(group).get("containers"):
            yield f"{path}.template.spec.containers: at least one is needed"
        given = sorted({"num-cpus", "num-gpus", "memory", "resources"} & set(start))
        if given and group.get("resources"):
            yield f"{path}.resources: rayStartParams already has {', '.join(given)}; give one"
        if "labels" in start:
            yield f"{path}.rayStartParams.labels: give `labels` of the group instead"
        if path.endswith("headGroupSpec"):
            continue
        name = group.get("groupName", "")
        if name in seen:
            yield f"{path}.groupName: {name!r} is another group's already"
        seen.add(name)
        low, high = (group.get(field) or 0 for field in ("minReplicas", "maxReplicas"))
        if not 0 <= low <= high:
            yield f"{path}: 0 ≤ minReplicas ≤ maxReplicas must hold (given: {low}, {high})"
        idle = group.get("idleTimeoutSeconds")
        if idle is not None and idle < 0:
            yield f"{path}.idleTimeoutSeconds: must be 0 or more (given: {idle})"
        if idle is not None and not _autoscaler_v2(found[1]):
            yield f"{path}.idleTimeoutSeconds: needs autoscalerOptions.version: v2"
        if scales and group.get("suspend"):
            yield f"{path}.suspend: not with the autoscaler; set minReplicas and replicas to 0"


def autoscaler(obj: Object) -> Iterator[str]:
    """Autoscaler v2: pods are replaced, never restarted, and it is chosen in one place."""
    found = cluster(obj)
    if found is None:
        return
    path, spec = found
    options = spec.get("autoscalerOptions") or {}
    variable = _v2_variable(spec)
    if (options.get("idleTimeoutSeconds") or 0) < 0:
        yield f"{path}.autoscalerOptions.idleTimeoutSeconds: must be 0 or more"
    if not spec.get("enableInTreeAutoscaling"):
        if variable.get("value") in _TRUE:
            yield f"{path}.enableInTreeAutoscaling: RAY_enable_autoscaler_v2 is set; set this, too"
        return
    if options.get("version") is not None and variable:
        yield f"{path}.autoscalerOptions.version: remove RAY_enable_autoscaler_v2 from the head"
    if not _autoscaler_v2(spec):
        return
    for where, group in groups(obj):
        policy = pod_spec(group).get("restartPolicy")
        if policy not in (None, "", "Never"):
            yield (
                f"{where}.template.spec.restartPolicy: must be Never or left out with autoscaler "
                f"v2 (given: {policy})"
            )


def _v2_variable(spec: Object) -> Object:
    """How autoscaler v2 was chosen before there was a field for it; {} if it is not there."""
    return environment(ray_container(spec["headGroupSpec"])).get("RAY_enable_autoscaler_v2", {})


def _autoscaler_v2(spec: Object) -> bool:
    version = (spec.get("autoscalerOptions") or {}).get("version")
    return version == "v2" or _v2_variable(spec).get("value") in _TRUE


def gcs_fault_tolerance(obj: Object) -> Iterator[str]:
    """One backend, its own fields only, and nothing that KubeRay sets itself."""
    found = cluster(obj)
    if found is None:
        return
    path, spec = found
    options = spec.get("gcsFaultToleranceOptions")
    head = ray_container(spec["headGroupSpec"])
    variables = environment(head)
    start = spec["headGroupSpec"].get("rayStartParams") or {}
    for name in ("redis-username", *(["redis-password"] if options is not None else [])):
        if start.get(name):
            yield (
                f"{path}.headGroupSpec.rayStartParams.{name}: give it in gcsFaultToleranceOptions"
            )
    if "REDIS_USERNAME" in variables:
        yield f"{path}: give gcsFaultToleranceOptions.redisUsername instead of REDIS_USERNAME"
    if options is None:
        if "RAY_REDIS_ADDRESS" in variables:
            yield f"{path}.gcsFaultToleranceOptions: RAY_REDIS_ADDRESS is set; give redisAddress"
        return
    path = f"{path}.gcsFaultToleranceOptions"
    annotations = obj["metadata"].get("annotations") or {}
    for name in ("ray.io/ft-enabled", "ray.io/external-storage-namespace"):
        if annotations.get(name):
            yield f"{path}: remove the annotation {name}, which says it a second time"
    set_by_kuberay = {"RAY_REDIS_ADDRESS", "REDIS_PASSWORD"}
    set_by_kuberay |= {"RAY_gcs_storage", "RAY_gcs_storage_path"}
    for name in sorted(set_by_kuberay & set(variables)):
        yield f"{path}: KubeRay sets {name}; remove it from the head's variables"
    storage = options.get("storage")
    if options.get("backend", "redis") == "redis":
        if storage is not None:
            yield f"{path}.storage: goes with backend rocksdb; remove it"
        if not options.get("redisAddress"):
            yield f"{path}.redisAddress: is missing; give host:port of your Redis"
        return
    if any(each["mountPath"].rstrip("/") == _GCS_PATH for each in head.get("volumeMounts") or []):
        yield f"{path}: KubeRay mounts the storage at the head's {_GCS_PATH}; mount yours elsewhere"
    for field in _REDIS_ONLY:
        if options.get(field):
            yield f"{path}.{field}: goes with backend redis; remove it"
    if storage and storage.get("claimName"):
        if given := [f for f in ("size", "storageClassName", "accessModes") if storage.get(f)]:
            yield f"{path}.storage.claimName: not with {', '.join(given)}"
        if obj["kind"] == "RayService":
            yield (
                f"{path}.storage.claimName: the old and the new head of an upgrade would both want "
                "it; give `size`, and each gets a claim of its own"
            )


def token(obj: Object) -> Iterator[str]:
    """Ray's token needs a Ray that knows it."""
    found = cluster(obj)
    if found is None or (found[1].get("authOptions") or {}).get("mode") != "token":
        return
    path, spec = found
    version = spec.get("rayVersion") or ""
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if numbers is None or (int(numbers[1]), int(numbers[2])) < (2, 52):
        yield f"{path}.rayVersion: authOptions need 2.52 or later (given: {version!r})"


def service_upgrade(obj: Object) -> Iterator[str]:
    """How a RayService is upgraded; traffic shifts only by steps that fit the surge."""
    if obj["kind"] != "RayService":
        return
    spec = obj["spec"]
    service = spec["rayClusterConfig"]["headGroupSpec"].get("headService") or {}
    if (service.get("metadata") or {}).get("name"):
        yield "spec.rayClusterConfig.headGroupSpec.headService.metadata.name: leave it to KubeRay"
    if spec["rayClusterConfig"].get("upgradeStrategy"):
        yield "spec.rayClusterConfig.upgradeStrategy: give spec.upgradeStrategy instead"
    kinds = ("NewCluster", "NewClusterWithIncrementalUpgrade", "None")
    strategy = spec.get("upgradeStrategy") or {}
    kind = strategy.get("type", "NewCluster")
    if kind not in kinds:
        yield f"spec.upgradeStrategy.type: must be one of {', '.join(kinds)} (given: {kind!r})"
    if kind != "NewClusterWithIncrementalUpgrade":
        return
    if not spec["rayClusterConfig"].get("enableInTreeAutoscaling"):
        yield "spec.rayClusterConfig.enableInTreeAutoscaling: an incremental upgrade needs it"
    path = "spec.upgradeStrategy.clusterUpgradeOptions"
    options = strategy.get("clusterUpgradeOptions")
    if options is None:
        yield f"{path}: an incremental upgrade needs gatewayClassName, stepSizePercent, ..."
        return
    surge, step = options.get("maxSurgePercent", 100), options.get("stepSizePercent", 0)
    if not 0 <= surge <= 100:
        yield f"{path}.maxSurgePercent: must be in 0..100 (given: {surge})"
    if not 0 <= step <= min(surge, 100):
        yield f"{path}.stepSizePercent: must be in 0..maxSurgePercent={surge} (given: {step})"
    if options.get("intervalSeconds", 0) <= 0:
        yield f"{path}.intervalSeconds: must be above 0"
    if not options.get("gatewayClassName"):
        yield f"{path}.gatewayClassName: is empty; `kubectl get gatewayclasses` lists yours"


def job(obj: Object) -> Iterator[str]:
    """How a RayJob is submitted, ended and tidied away."""
    if obj["kind"] != "RayJob":
        return
    spec = obj["spec"]
    shutdown, selector = spec.get("shutdownAfterJobFinishes"), spec.get("clusterSelector")
    mode = spec.get("submissionMode")
    if mode not in _MODES:
        yield f"spec.submissionMode: must be one of {', '.join(_MODES)} (given: {mode!r})"
    if (spec.get("ttlSecondsAfterFinished") or 0) < 0:
        yield "spec.ttlSecondsAfterFinished: must be 0 or more"
    if spec.get("ttlSecondsAfterFinished") and not shutdown:
        yield "spec.ttlSecondsAfterFinished: has no effect without shutdownAfterJobFinishes: true"
    if spec.get("suspend") and not shutdown:
        yield "spec.suspend: only with shutdownAfterJobFinishes: true"
    if not spec.get("rayClusterSpec") and not selector:
        yield "spec: give rayClusterSpec or clusterSelector"
    if selector and spec.get("suspend"):
        yield "spec.suspend: not with clusterSelector"
    for field, least in (("activeDeadlineSeconds", 1), ("backoffLimit", 0)):
        if (value := spec.get(field)) is not None and value < least:
            yield f"spec.{field}: must be {least} or more (given: {value})"
    if (selector or mode == "InteractiveMode") and (spec.get("backoffLimit") or 0) > 0:
        yield "spec.backoffLimit: must be 0 with clusterSelector or InteractiveMode"
    if mode == "SidecarMode":
        for field in ("submitterPodTemplate", "submitterConfig", "clusterSelector"):
            if spec.get(field):
                yield f"spec.{field}: not in SidecarMode"
    try:
        yaml.safe_load(spec.get("runtimeEnvYAML") or "")
    except yaml.YAMLError as error:
        yield f"spec.runtimeEnvYAML: not valid YAML: {error}"
    strategy = spec.get("deletionStrategy")
    if strategy is not None:
        old = [bool(strategy.get(field)) for field in ("onSuccess", "onFailure")]
        rules = bool(strategy.get("deletionRules"))
        if rules == any(old) or any(old) != all(old):
            yield "spec.deletionStrategy: give deletionRules, or both onSuccess and onFailure"
        if rules and shutdown:
            yield "spec.deletionStrategy.deletionRules: not with shutdownAfterJobFinishes"


RULES = (
    names, managed_by, worker_groups, autoscaler, gcs_fault_tolerance, token, service_upgrade, job,
)  # fmt: skip
"""All of them; one that does not concern a kind has nothing to say about it."""

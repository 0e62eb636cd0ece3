"""Pods that are large enough for a model: their number, their size, and refusals with numbers.

bundles of a replica ─┐
pods of the group    ─┴→ pods per replica → CPUs and memory of a pod, number of pods
"""

from __future__ import annotations

import copy
import math
import re
from dataclasses import dataclass
from typing import Any

from cluster.errors import ConfigError, PlanError
from cluster.parallel.plan import Placement

Object = dict[str, Any]

GPU = "nvidia.com/gpu"
POD_BYTES = 2 * 2**30
"""Memory of Ray's processes, HAProxy and Python in a pod, beside the model. Measured for a local
cluster that serves one model: 1.3 GiB (Pss, README)."""

_UNITS = {
    "n": 1e-9,
    "u": 1e-6,
    "m": 1e-3,
    "": 1,
    **{unit: 1000**power for power, unit in enumerate("kMGTPE", 1)},
    **{f"{unit}i": 1024**power for power, unit in enumerate("KMGTPE", 1)},
}
# An exponent and the unit E look alike: 1E3 is a thousand, 1E is 10¹⁸.
_QUANTITY = re.compile(
    r"(?P<number>[+-]?(\d+(\.\d*)?|\.\d+))"
    r"((?P<exponent>[eE][+-]?\d+)|(?P<unit>[numkMGTPE]|[KMGTPE]i))?",
    re.ASCII,
)


@dataclass(frozen=True)
class ReplicaNeed:
    """Resources of one replica, all shards together."""

    bundles: tuple[dict[str, float], ...]
    memory_bytes: int
    placement: Placement

    @property
    def cpus(self) -> float:
        """CPUs of all bundles."""
        return sum(bundle.get("CPU", 0) for bundle in self.bundles)

    @property
    def gpus(self) -> int:
        """GPUs of all bundles."""
        return int(sum(bundle.get("GPU", 0) for bundle in self.bundles))

    @property
    def shards(self) -> int:
        """Number of bundles that compute."""
        return sum("CPU" in bundle for bundle in self.bundles)


@dataclass(frozen=True)
class SizedGroup:
    """Worker group with pods for whole replicas, and the number of replicas that it holds."""

    group: Object
    pods_per_replica: int
    replicas: int
    """Replicas at the start."""

    max_replicas: int
    devices: str
    """Devices of its pods at most, in the notation of `headrace plan --devices`."""


def size_group(group: Object, need: ReplicaNeed, target: str) -> SizedGroup:
    """Return the group with pods that hold one replica each, or as many pods as one needs.

    CPUs and memory grow with the plan. GPUs are those of a machine: for a replica that needs fewer,
    a pod takes its share of the machine, and the group has more pods. PlanError, with the numbers,
    if the group cannot hold one replica. ConfigError if it has no maxReplicas, or numOfHosts > 1.
    """
    name = group["groupName"]
    if group.get("maxReplicas") is None:
        raise ConfigError(f"group {name}: maxReplicas is missing; give the maximum number of pods")
    if group.get("numOfHosts", 1) != 1:
        raise ConfigError(
            f"group {name}: numOfHosts must be 1 (given: {group['numOfHosts']}); remove it: a "
            "replica of several pods gets them one by one"
        )
    max_pods, min_pods = int(group["maxReplicas"]), int(group.get("minReplicas") or 0)
    sized = copy.deepcopy(group)
    resources = sized["template"]["spec"]["containers"][0].setdefault("resources", {})
    gpus = int(quantity((resources.get("limits") or {}).get(GPU, 0)))
    pods = _pods_per_replica(name, need, gpus, max_pods)
    used_gpus = math.ceil(need.gpus / pods)
    if 0 < used_gpus < gpus:
        _share(resources, used_gpus, gpus)
        max_pods *= gpus // used_gpus
    shards = math.ceil(need.shards / pods)
    cpus = math.ceil(shards * need.cpus / need.shards)
    memory = POD_BYTES + math.ceil(need.memory_bytes / pods)
    _raise_to(resources, "cpu", cpus, str(cpus))
    _raise_to(resources, "memory", memory, _mebibytes(memory))
    # Not the pod's own CPUs: with them Ray would place more replicas on a pod than planned.
    sized["rayStartParams"] = {**(sized.get("rayStartParams") or {}), "num-cpus": str(cpus)}
    # KubeRay clamps `replicas` in the same way.
    initial = min(max(min_pods, int(group.get("replicas") or 0)), max_pods)
    replicas = max(1, initial // pods)
    sized["replicas"] = replicas * pods
    sized["minReplicas"] = min(sized["replicas"], math.ceil(min_pods / pods) * pods)
    sized["maxReplicas"] = max_pods
    return SizedGroup(sized, pods, replicas, max_pods // pods, f"{shards}x{target}@{max_pods}")


def _pods_per_replica(name: str, need: ReplicaNeed, gpus: int, max_pods: int) -> int:
    """Return the number of pods of one replica; PlanError if the group has fewer."""
    if max_pods < 1:
        raise PlanError(
            f"group {name}: maxReplicas must be at least 1, for the pods of a replica "
            f"(given: {max_pods})"
        )
    if need.gpus and not gpus:
        raise PlanError(
            f"group {name}: the plan needs {need.gpus} GPUs for a replica, its pods have none; "
            f"set the container's limit {GPU}"
        )
    if need.placement == "STRICT_PACK" and need.gpus > gpus:
        raise PlanError(
            f"group {name}: the plan needs {need.gpus} GPUs for a replica on one node "
            f"(STRICT_PACK), a pod has {gpus}; raise the group's limit {GPU}, or plan with "
            "--placement PACK"
        )
    if need.placement == "SPREAD":
        pods = need.shards
    else:
        pods = math.ceil(need.gpus / gpus) if need.gpus else 1
    if pods > max_pods:
        needed = f"{need.gpus} GPUs" if need.gpus else f"{need.shards} pods (SPREAD)"
        total = f" of {gpus} GPUs, {max_pods * gpus} together" if need.gpus else ""
        raise PlanError(
            f"group {name}: the plan needs {needed} for a replica, the group has at most "
            f"{max_pods} pods{total}; raise its maxReplicas, or plan for fewer devices"
        )
    return pods


def _share(resources: Object, used_gpus: int, gpus: int) -> None:
    """Reduce a machine's resources to the share of a pod that uses some of its GPUs."""
    for amounts in (resources[field] for field in ("requests", "limits") if resources.get(field)):
        if "cpu" in amounts:
            amounts["cpu"] = f"{math.floor(quantity(amounts['cpu']) * 1000 * used_gpus / gpus)}m"
        if "memory" in amounts:
            amounts["memory"] = _mebibytes(quantity(amounts["memory"]) * used_gpus / gpus)
        if GPU in amounts:
            amounts[GPU] = used_gpus


def _mebibytes(count: float) -> str:
    return f"{math.ceil(count / 2**20)}Mi"


def _raise_to(resources: Object, kind: str, minimum: float, text: str) -> None:
    """Set a request and a limit to ``text`` where they are below ``minimum``."""
    for field in ("requests", "limits"):
        amounts = resources.setdefault(field, {})
        if quantity(amounts.get(kind, 0)) < minimum:
            amounts[kind] = text


def quantity(text: str | int | float) -> float:
    """Return a Kubernetes quantity as a number: ``500m`` is 0.5, ``4Gi`` is 4 × 2³⁰."""
    match = _QUANTITY.fullmatch(str(text))
    if match is None:
        raise ConfigError(f"{text!r} is not a Kubernetes quantity; give one such as 500m or 4Gi")
    return float(match["number"] + (match["exponent"] or "")) * _UNITS[match["unit"] or ""]

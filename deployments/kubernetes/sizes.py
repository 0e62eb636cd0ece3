"""Pods large enough for a model: how many, of what size, and why a group cannot have them.

bundles of a replica ─┐
the group's pods     ─┴→ pods per replica → CPUs, memory of a pod, least number of pods
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
"""What Ray's processes, HAProxy and Python take in a pod beside the model. Those of a local cluster
that serves one model were 1.3 GiB (Pss, README)."""

_UNITS = {"n": 1e-9, "u": 1e-6, "m": 1e-3, "": 1,
          "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15, "E": 10**18,
          "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50, "Ei": 2**60}  # fmt: skip
# An exponent and the unit E look alike: 1E3 is a thousand, 1E a million million million.
_QUANTITY = re.compile(
    r"(?P<number>[+-]?(\d+(\.\d*)?|\.\d+))"
    r"((?P<exponent>[eE][+-]?\d+)|(?P<unit>[numkMGTPE]|[KMGTPE]i))?",
    re.ASCII,
)


@dataclass(frozen=True)
class Need:
    """What one replica asks of the pods of a group."""

    bundles: tuple[dict[str, float], ...]
    memory_bytes: int
    """Of all its shards together."""

    placement: Placement

    @property
    def cpus(self) -> float:
        """Of all bundles."""
        return sum(bundle.get("CPU", 0) for bundle in self.bundles)

    @property
    def gpus(self) -> int:
        """Of all bundles."""
        return int(sum(bundle.get("GPU", 0) for bundle in self.bundles))

    @property
    def shards(self) -> int:
        """Bundles in which something computes."""
        return sum("CPU" in bundle for bundle in self.bundles)


@dataclass(frozen=True)
class Fitted:
    """A group whose pods fit the replicas, and how many replicas it holds."""

    group: Object
    pods: int
    """That one replica takes."""

    replicas: int
    """With the least number of pods."""

    most_replicas: int
    devices: str
    """What its pods have at most, as `headrace plan --devices` writes it."""


def fit(group: Object, need: Need, target: str) -> Fitted:
    """The group with pods that hold one replica each, or as many pods as one needs.

    CPUs and memory grow with the plan. GPUs are those of a machine: of a replica that needs fewer,
    a pod takes its share of the machine, and the group has so many more pods. PlanError, with the
    numbers, if the group cannot hold one replica; ConfigError if it does not say how many pods it
    may have, or has pods that come in sets.
    """
    name = group["groupName"]
    if group.get("maxReplicas") is None:
        raise ConfigError(f"group {name}: has no maxReplicas; give the most pods it may have")
    if group.get("numOfHosts", 1) != 1:
        raise ConfigError(
            f"group {name}: numOfHosts is {group['numOfHosts']}: pods that come in sets are not "
            "reckoned with; remove it, and a replica of several pods gets them one by one"
        )
    most, least = int(group["maxReplicas"]), int(group.get("minReplicas") or 0)
    made = copy.deepcopy(group)
    resources = _container(made).setdefault("resources", {})
    gpus = int(quantity((resources.get("limits") or {}).get(GPU, 0)))
    pods = _pods(name, need, gpus, most)
    used = math.ceil(need.gpus / pods)
    if 0 < used < gpus:
        _share(resources, used, gpus)
        most *= gpus // used
    per_pod = math.ceil(need.shards / pods)
    cpus = math.ceil(per_pod * need.cpus / need.shards)
    memory = POD_BYTES + math.ceil(need.memory_bytes / pods)
    _grow(resources, "cpu", cpus, str(cpus))
    _grow(resources, "memory", memory, _mebibytes(memory))
    # Not what the pod has: Ray would put more replicas in than were reckoned with.
    made["rayStartParams"] = {**(made.get("rayStartParams") or {}), "num-cpus": str(cpus)}
    # KubeRay, too, keeps `replicas` between the least and the most.
    wanted = min(max(least, int(group.get("replicas") or 0)), most)
    replicas = max(1, wanted // pods)
    made["replicas"] = replicas * pods
    made["minReplicas"] = min(made["replicas"], math.ceil(least / pods) * pods)
    made["maxReplicas"] = most
    return Fitted(made, pods, replicas, most // pods, f"{per_pod}x{target}@{most}")


def _pods(name: str, need: Need, gpus: int, most: int) -> int:
    """Pods that one replica takes."""
    if most < 1:
        raise PlanError(f"group {name}: maxReplicas is {most}; a replica needs a pod at least")
    if need.gpus and not gpus:
        raise PlanError(
            f"group {name}: the plan wants {need.gpus} GPUs for a replica, its pods have none; "
            f"give its container the limit {GPU}"
        )
    if need.placement == "STRICT_PACK" and need.gpus > gpus:
        raise PlanError(
            f"group {name}: the plan wants {need.gpus} GPUs for a replica on one node "
            f"(STRICT_PACK), a pod has {gpus}; raise the group's limit {GPU}, or plan with "
            "--placement PACK"
        )
    if need.placement == "SPREAD":
        pods = need.shards
    else:
        pods = math.ceil(need.gpus / gpus) if need.gpus else 1
    if pods > most:
        wanted = f"{need.gpus} GPUs" if need.gpus else f"{need.shards} pods (SPREAD)"
        has = f"{most} pods" + (f" of {gpus}, {most * gpus} together" if need.gpus else "")
        raise PlanError(
            f"group {name}: the plan wants {wanted} for a replica, the group has at most {has}; "
            "raise its maxReplicas, or plan for fewer devices"
        )
    return pods


def _share(resources: Object, used: int, gpus: int) -> None:
    """Make a machine's resources those of a pod that uses some of its GPUs."""
    for given in (resources[field] for field in ("requests", "limits") if resources.get(field)):
        if "cpu" in given:
            given["cpu"] = f"{math.floor(quantity(given['cpu']) * 1000 * used / gpus)}m"
        if "memory" in given:
            given["memory"] = _mebibytes(quantity(given["memory"]) * used / gpus)
        if GPU in given:
            given[GPU] = used


def _mebibytes(count: float) -> str:
    return f"{math.ceil(count / 2**20)}Mi"


def _grow(resources: Object, kind: str, least: float, written: str) -> None:
    for field in ("requests", "limits"):
        given = resources.setdefault(field, {})
        if quantity(given.get(kind, 0)) < least:
            given[kind] = written


def _container(group: Object) -> Object:
    found: Object = group["template"]["spec"]["containers"][0]
    return found


def quantity(written: str | int | float) -> float:
    """A Kubernetes quantity as a number: ``500m`` is 0.5, ``4Gi`` is 4 × 2³⁰."""
    match = _QUANTITY.fullmatch(str(written))
    if match is None:
        raise ConfigError(f"{written!r} is no quantity that Kubernetes knows, such as 500m or 4Gi")
    return float(match["number"] + (match["exponent"] or "")) * _UNITS[match["unit"] or ""]

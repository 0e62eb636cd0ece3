"""Pods large enough for a model: how many, of what size, and why a group cannot have them.

bundles of a replica ─┐
the group's pods     ─┴→ pods per replica → CPUs, memory of a pod, least number of pods
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

from cluster.errors import ConfigError, PlanError
from cluster.parallel.plan import Placement

Object = dict[str, Any]

GPU = "nvidia.com/gpu"
POD_BYTES = 2 * 2**30
"""What Ray's processes, HAProxy and Python take in a pod beside the model. Those of a local cluster
that serves one model were 1.3 GiB (Pss, README)."""

_UNITS = {"": 1, "m": 1e-3, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12,
          "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}  # fmt: skip


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

    CPUs and memory grow with the plan; GPUs are those of a machine. PlanError, with the numbers,
    if the group cannot hold one replica; ConfigError if it does not say how many pods it may have.
    """
    name, least = group["groupName"], int(group.get("minReplicas") or 0)
    if group.get("maxReplicas") is None:
        raise ConfigError(f"group {name}: has no maxReplicas; give the most pods it may have")
    most = int(group["maxReplicas"])
    resources = _container(group).setdefault("resources", {})
    gpus = int(quantity((resources.get("limits") or {}).get(GPU, 0)))
    pods = _pods(name, need, gpus, most)
    per_pod = math.ceil(need.shards / pods)
    cpus = math.ceil(per_pod * need.cpus / need.shards)
    memory = POD_BYTES + math.ceil(need.memory_bytes / pods)
    made = copy.deepcopy(group)
    _grow(_container(made)["resources"], "cpu", cpus, str(cpus))
    _grow(_container(made)["resources"], "memory", memory, f"{math.ceil(memory / 2**20)}Mi")
    # Not what the pod has: Ray would put more replicas in than were reckoned with.
    made["rayStartParams"] = {**(made.get("rayStartParams") or {}), "num-cpus": str(cpus)}
    replicas = max(1, least // pods)
    made["minReplicas"] = made["replicas"] = replicas * pods
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
    text = str(written)
    number = text.rstrip("mkMGTi")
    unit = text[len(number) :]
    try:
        return float(number) * _UNITS[unit]
    except (ValueError, KeyError):
        raise ConfigError(
            f"{text!r} is no quantity that Kubernetes knows, such as 500m or 4Gi"
        ) from None

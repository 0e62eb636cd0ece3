"""Placement of a sharded model on this cluster, decided before Serve deploys it.

ModelArgs.parallel ─┐
the manifest       ─┼→ plan → layout, bundles → Placement
Ray's nodes        ─┘
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any

import ray

from cluster.artifact.manifest import Manifest
from cluster.artifact.served import BoundModel
from cluster.config.parallel import Parallel
from cluster.config.serving import ModelArgs
from cluster.errors import PlanError
from cluster.parallel.devices import Device, parse_devices, this_machine
from cluster.parallel.plan import ShardPlan, plan
from deployments.ray.names import version_of

DEVICES_VARIABLE = "HEADRACE_DEVICES"
"""Environment variable with the devices of a cluster that scales on demand.

Its format is that of `headrace plan --devices`. Without it, the devices are those of the nodes at
the time of the deployment."""

_GROUP, _HEAD_GROUP = "ray.io/node-group", "headgroup"

NOT_THE_HEAD = {_GROUP: f"!{_HEAD_GROUP}"}
"""Label selector of the nodes that serve.

Actors without CPUs would otherwise be placed on the head, and end with it. KubeRay labels its pods
so. Elsewhere a head is started with ``--labels ray.io/node-group=headgroup``, or serves like any
other node."""

OFF_HEAD = {"label_selector": NOT_THE_HEAD}
"""The same selector as ``ray_actor_options``."""

_ARTIFACT = "headrace.io/not-artifact"


def nodes_for(model: BoundModel) -> dict[str, str]:
    """Return the label selector of the nodes that may serve a model: all but the head.

    Serve replaces replicas whose options differ, and does not know what they are bound to. A
    condition that every node meets, with the artifact's id in it, makes another artifact another
    option: replicas of one deployment never differ in what they serve.
    """
    return {**NOT_THE_HEAD, _ARTIFACT: f"!{version_of(model.artifact_id)}"}


@dataclass(frozen=True)
class Placement:
    """Layout, bundles and placement strategy of a sharded model's deployment."""

    layout: str | None
    """Key of the artifact's layout; None: the whole program, in the replica."""

    bundles: list[dict[str, float]]
    strategy: str


def place(model: BoundModel) -> Placement | None:
    """Place the model's shards on the devices of this cluster; None if it is not sharded.

    Raises PlanError, with the numbers and possible layouts, if the artifact has no such layout or
    the cluster has too few devices.
    """
    args, manifest = model.args, model.manifest
    if args.parallel is None:
        return None
    shard_plan = plan_shards(args, manifest, _devices(args, manifest))
    if shard_plan.layout is None:
        return None
    bundles = [dict(bundle) for bundle in shard_plan.bundles]
    return Placement(shard_plan.layout, bundles, shard_plan.placement)


def require_room_here(model: BoundModel) -> None:
    """Raise PlanError if a cluster of this machine alone could not place the model.

    Models with programs for GPUs are not checked: only the cluster knows its GPUs.
    """
    args, manifest = model.args, model.manifest
    if args.parallel is None:
        return
    if not any(entry.target.startswith("cuda-") for entry in manifest.programs):
        devices = this_machine(args.compute_threads, args.parallel.device_memory)
        plan_shards(args, manifest, list(devices))


def plan_shards(args: ModelArgs, manifest: Manifest, devices: list[Device]) -> ShardPlan:
    """Return the plan of a sharded model; PlanError also for a layout that is not built."""
    settings = args.parallel or Parallel()
    shard_plan = plan(
        manifest,
        devices,
        pipeline=None if settings.pipeline == "auto" else settings.pipeline,
        tensor=None if settings.tensor == "auto" else settings.tensor,
        batch=args.batching.max_batch_size,
        compute_threads=args.compute_threads,
        placement=settings.placement,
        max_devices=settings.devices_per_replica
        if "auto" in (settings.pipeline, settings.tensor)
        else None,
    )
    if not shard_plan.built:
        layouts = ", ".join(f"pipeline {e.pipeline} × tensor {e.tensor}" for e in manifest.layouts)
        pipeline, tensor = shard_plan.pipeline, shard_plan.tensor
        raise PlanError(
            f"model {args.name}: artifact {manifest.name} has no layout pipeline {pipeline} × "
            f"tensor {tensor}; it has {layouts or 'no layout'}. Add `parallel: [{{pipeline: "
            f"{pipeline}, tensor: {tensor}}}]` to its recipe and build it"
        )
    return shard_plan


def _devices(args: ModelArgs, manifest: Manifest) -> list[Device]:
    """Return the devices of :data:`DEVICES_VARIABLE`, else those of the nodes, busy or not.

    A pod that the autoscaler adds when a replica needs it is no node yet.
    """
    memory = args.parallel.device_memory if args.parallel else None
    if configured := os.environ.get(DEVICES_VARIABLE):
        return [replace(device, memory_bytes=memory) for device in parse_devices(configured)]
    cuda = next((e.target for e in manifest.programs if e.target.startswith("cuda-")), None)
    devices: list[Device] = []
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    serving = [
        node for node in nodes if node["Alive"] and node["Labels"].get(_GROUP) != _HEAD_GROUP
    ]
    for number, node in enumerate(serving):
        resources = node["Resources"]
        if cuda is not None:
            devices += [Device(cuda, memory, number)] * int(resources.get("GPU", 0))
        cpus = int(resources.get("CPU", 0) // args.compute_threads)
        devices += [Device("cpu-x86", memory, number)] * cpus
    return devices

"""Placing a sharded model on this cluster, before Serve is asked for anything.

ModelArgs.parallel ─┐
the manifest       ─┼→ plan → layout, bundles → Placed
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

DEVICES_VARIABLE = "HEADRACE_DEVICES"
"""Environment variable with the devices of a cluster that grows on demand, as for `headrace plan
--devices`; without it they are those of the nodes that are there when a model is deployed."""

_GROUP, _HEAD_GROUP = "ray.io/node-group", "headgroup"

NOT_THE_HEAD = {_GROUP: f"!{_HEAD_GROUP}"}
"""Which nodes serve: what takes no CPU would else be put on a head that has none to give, and a
lost head would take it along. KubeRay labels the pods of a cluster so; elsewhere a head is started
with ``--labels ray.io/node-group=headgroup``, or serves like any node."""

OFF_HEAD = {"label_selector": NOT_THE_HEAD}
"""The same among ``ray_actor_options``."""


@dataclass(frozen=True)
class Placed:
    """What a deployment is given for a sharded model."""

    layout: str | None
    """Key of the artifact's layout; None: the whole program, in the replica."""

    bundles: list[dict[str, float]]
    strategy: str


def placed(model: BoundModel) -> Placed | None:
    """Place the model's shards on the devices of this cluster; None if it is not to be cut.

    PlanError, with the numbers and what would work, if the artifact has no such cut or the
    cluster not the devices.
    """
    args, manifest = model.args, model.manifest
    if args.parallel is None:
        return None
    made = planned(args, manifest, _devices(args, manifest))
    if made.layout is None:
        return None
    return Placed(made.layout, [dict(each) for each in made.bundles], made.placement)


def require_room_here(model: BoundModel) -> None:
    """PlanError if a cluster of this machine alone could not place the model, before one starts.

    What has programs for GPUs is left to the cluster, which knows how many it has.
    """
    args, manifest = model.args, model.manifest
    if args.parallel is None:
        return
    if not any(entry.target.startswith("cuda-") for entry in manifest.programs):
        devices = this_machine(args.compute_threads, args.parallel.device_memory)
        planned(args, manifest, list(devices))


def planned(args: ModelArgs, manifest: Manifest, devices: list[Device]) -> ShardPlan:
    """The plan of a model that is to be cut; PlanError also for a cut that is not built."""
    settings = args.parallel or Parallel()
    made = plan(
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
    if not made.built:
        has = ", ".join(f"pipeline {e.pipeline} × tensor {e.tensor}" for e in manifest.layouts)
        raise PlanError(
            f"model {args.name}: artifact {manifest.name} is not cut into pipeline "
            f"{made.pipeline} × tensor {made.tensor}; it holds {has or 'no cut'}. Add `parallel: "
            f"[{{pipeline: {made.pipeline}, tensor: {made.tensor}}}]` to its recipe and build it"
        )
    return made


def _devices(args: ModelArgs, manifest: Manifest) -> list[Device]:
    """What the cluster's nodes have, busy or not; or what they will have, where that is written.

    A pod that the autoscaler brings when a replica asks for it is no node yet.
    """
    memory = args.parallel.device_memory if args.parallel else None
    if written := os.environ.get(DEVICES_VARIABLE):
        return [replace(each, memory_bytes=memory) for each in parse_devices(written)]
    cuda = next((e.target for e in manifest.programs if e.target.startswith("cuda-")), None)
    found: list[Device] = []
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    serving = [
        each for each in nodes if each["Alive"] and each["Labels"].get(_GROUP) != _HEAD_GROUP
    ]
    for number, node in enumerate(serving):
        resources = node["Resources"]
        if cuda is not None:
            found += [Device(cuda, memory, number)] * int(resources.get("GPU", 0))
        cpus = int(resources.get("CPU", 0) // args.compute_threads)
        found += [Device("cpu-x86", memory, number)] * cpus
    return found

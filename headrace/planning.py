"""``headrace.plan``: placement of a cut on devices, as ``headrace plan`` computes it."""

from __future__ import annotations

import os
from collections.abc import Sequence

from cluster.artifact.artifact import Artifact
from cluster.artifact.lookup import open_artifact
from cluster.parallel import plan as planner
from cluster.parallel.devices import Device, cores_of_this_machine, parse_devices
from cluster.parallel.plan import Placement, ShardPlan


def plan(
    artifact: Artifact | str | os.PathLike[str],
    devices: str | Sequence[Device] | None = None,
    *,
    pipeline: int | None = None,
    tensor: int | None = None,
    batch: int = 8,
    placement: Placement = "PACK",
    store: str | os.PathLike[str] | None = None,
) -> ShardPlan:
    """Return the plan of an artifact for devices, without reading its weights.

    ``artifact``: an artifact, or its name, id, prefix of an id, or directory. ``devices``: as
    ``2xcpu-x86:4GiB``; None: the cores of this machine. ``pipeline``, ``tensor``: stages, and
    ranks of a stage; None: the fewest devices. ``batch``: items of a micro-batch. PlanError, with
    numbers and the nearest possible plan, if no cut fits.
    """
    if not isinstance(artifact, Artifact):
        artifact = open_artifact(os.fspath(artifact), None if store is None else os.fspath(store))
    if devices is None:
        devices = cores_of_this_machine()
    elif isinstance(devices, str):
        devices = parse_devices(devices)
    return planner.plan(
        artifact.manifest,
        devices,
        pipeline=pipeline,
        tensor=tensor,
        batch=batch,
        placement=placement,
    )

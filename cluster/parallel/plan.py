"""Placement of a model's cut on devices, with its memory and performance.

manifest ─ layouts, built and measured ─┐
         └ profile, for any other cut ──┴→ estimate of every stage ─→ fits the devices? ─→ ShardPlan

Planning reads no weights. Measurements of a built layout are used directly; a cut that is not
built is estimated from its operators' share of the whole program's time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from cluster.artifact.layout import name_of
from cluster.artifact.manifest import Manifest
from cluster.errors import PlanError
from cluster.parallel.devices import Device, size_text
from cluster.parallel.estimate import Cut, StageEstimate, estimate, pipelines
from cluster.parallel.link import LOOPBACK

Placement = Literal["PACK", "STRICT_PACK", "SPREAD"]

FRAMES_AT_A_SHARD = 4
"""Maximum micro-batches in a shard's transport: arriving, waiting, computed and leaving."""


@dataclass(frozen=True)
class ShardPlace:
    """One shard with its device and its memory there."""

    stage: int
    tp_rank: int
    device: int
    node: int
    weight_bytes: int
    activation_bytes: int
    buffer_bytes: int

    @property
    def memory_bytes(self) -> int:
        """Total memory in bytes."""
        return self.weight_bytes + self.activation_bytes + self.buffer_bytes


@dataclass(frozen=True)
class ShardPlan:
    """A placed cut: description of one replica of the model."""

    model: str
    target: str
    pipeline: int
    tensor: int
    layout: str | None
    """Key of the artifact's layout; None: the whole program, or a cut that is not built."""

    built: bool
    batch: int
    shards: tuple[ShardPlace, ...]
    stage_ms: tuple[float, ...]
    """Time of each stage for a micro-batch of ``batch`` items, without transport."""

    hop_ms: tuple[float, ...]
    """Time of the transfer into each stage, and last of the answer's way back."""

    bundles: tuple[dict[str, float], ...]
    """Bundles of the placement group: the replica's, then one per shard."""

    placement: Placement

    @property
    def devices(self) -> int:
        """Number of devices of one replica."""
        return len(self.shards)

    @property
    def latency_ms(self) -> float:
        """Latency of one micro-batch through an idle pipeline."""
        return sum(self.stage_ms) + sum(self.hop_ms)

    @property
    def items_per_s(self) -> float:
        """Throughput with enough micro-batches in flight, bounded by the slowest stage."""
        return self.batch / self.slowest_ms * 1e3

    @property
    def slowest_ms(self) -> float:
        """Time of the slowest stage, including the transfer of its result."""
        return max(
            ms + _SENDER_SHARE * hop for ms, hop in zip(self.stage_ms, self.hop_ms[1:], strict=True)
        )

    @property
    def memory_bytes(self) -> int:
        """Memory of the largest shard."""
        return max(shard.memory_bytes for shard in self.shards)


_SENDER_SHARE = 0.5
"""Share of a hop's time that occupies the sending stage's core, to copy the result. Waking the
receiver overlaps with the next micro-batch."""


def plan(
    manifest: Manifest,
    devices: Sequence[Device],
    *,
    pipeline: int | None = None,
    tensor: int | None = None,
    batch: int = 8,
    compute_threads: int = 1,
    placement: Placement = "PACK",
    max_devices: int | None = None,
) -> ShardPlan:
    """Return the plan for a cut; None matches every value.

    Among matching cuts that fit, built ones are preferred, then fewer devices, then lower latency.
    Without ``pipeline`` and ``tensor``, only the artifact's layouts and the whole model are
    considered. ``max_devices``: limit for one replica. PlanError, with numbers and the nearest
    possible plan, if no cut fits the devices.
    """
    targets = [t for t in dict.fromkeys(d.target for d in devices) if t in _targets(manifest)]
    if not targets:
        has = ", ".join(dict.fromkeys(device.target for device in devices)) or "none"
        raise PlanError(
            f"{manifest.name} has programs for {', '.join(_targets(manifest)) or 'no target'}, the "
            f"devices are {has}; build it for them, or use devices of its targets"
        )
    refused: list[str] = []
    plans: list[ShardPlan] = []
    for target in targets:
        available = [device for device in devices if device.target == target]
        for cut in _cuts(manifest, target, pipeline, tensor, len(available)):
            needed = cut.pipeline * cut.tensor
            if max_devices is not None and needed > max_devices:
                name = name_of(cut.pipeline, cut.tensor)
                refused.append(f"{name} needs {needed} devices, at most {max_devices} are allowed")
                continue
            try:
                stages = estimate(manifest, cut, batch)
            except PlanError as error:  # another target may succeed
                refused.append(str(error))
                continue
            placed = _place(manifest, stages, available, placement, compute_threads)
            if isinstance(placed, ShardPlan):
                plans.append(placed)
            else:
                refused.append(placed)
    if not plans:
        raise PlanError(
            f"no plan for {manifest.name} fits: {'; '.join(refused) or 'no cut matches'}"
            f"{_nearest(manifest, targets[0], devices, batch, placement, compute_threads)}"
        )
    return min(plans, key=lambda plan: (not plan.built, plan.devices, plan.latency_ms))


def _targets(manifest: Manifest) -> tuple[str, ...]:
    return tuple(dict.fromkeys(entry.target for entry in manifest.programs))


def _cuts(
    manifest: Manifest, target: str, pipeline: int | None, tensor: int | None, devices: int
) -> list[Cut]:
    """Return the requested cut, or the built ones that match the request."""
    if pipeline is not None and tensor is not None:
        return [Cut(target, pipeline, tensor)]
    built = [Cut(target, 1, 1)]
    built += [Cut(target, e.pipeline, e.tensor) for e in manifest.layouts if e.target == target]
    matching = [
        cut for cut in built if pipeline in (None, cut.pipeline) and tensor in (None, cut.tensor)
    ]
    if matching:
        return matching
    return [Cut(target, pipeline or 1, tensor or 1)]


def _place(
    manifest: Manifest,
    stages: Sequence[StageEstimate],
    devices: Sequence[Device],
    placement: Placement,
    compute_threads: int,
) -> ShardPlan | str:
    """Place the stages, adjacent ones near each other; return the reason if they do not fit."""
    cut = stages[0].cut
    name = name_of(cut.pipeline, cut.tensor)
    needed = cut.pipeline * cut.tensor
    if needed > len(devices):
        return f"{name} needs {needed} devices of {cut.target}, there are {len(devices)}"
    nodes = [device.node for device in devices]
    if placement == "SPREAD" and needed > 1 and len(set(nodes)) == 1:
        return (
            f"{name} with placement SPREAD needs devices on several nodes, all are on one; use PACK"
        )
    indices = _select(devices, needed, placement)
    if indices is None:
        largest = max(nodes.count(node) for node in set(nodes))
        return (
            f"{name} with placement STRICT_PACK needs {needed} devices on one node, the largest "
            f"has {largest}; use PACK"
        )
    shards = []
    for stage in stages:
        for rank in range(cut.tensor):
            index = indices[stage.number * cut.tensor + rank]
            shards.append(
                ShardPlace(
                    stage=stage.number,
                    tp_rank=rank,
                    device=index,
                    node=devices[index].node,
                    weight_bytes=stage.weight_bytes,
                    activation_bytes=stage.activation_bytes * stage.batch,
                    buffer_bytes=FRAMES_AT_A_SHARD
                    * stage.batch
                    * max(stage.arriving_bytes, stage.leaving_bytes),
                )
            )
    for shard in shards:
        limit = devices[shard.device].memory_bytes
        if limit is not None and shard.memory_bytes > limit:
            return (
                f"{name}: stage {shard.stage} needs {size_text(shard.memory_bytes)} "
                f"({size_text(shard.weight_bytes)} weights, {size_text(shard.activation_bytes)} "
                f"activations at batch {stages[0].batch}, {size_text(shard.buffer_bytes)} "
                f"transport), its device has {size_text(limit)}"
            )
    undivided = needed == 1
    sent = [] if undivided else [stage.arriving_bytes for stage in stages]
    hops = [LOOPBACK.ms(size * stages[0].batch) for size in sent]
    back = [] if undivided else [LOOPBACK.ms(stages[-1].leaving_bytes * stages[0].batch)]
    return ShardPlan(
        model=manifest.name,
        target=cut.target,
        pipeline=cut.pipeline,
        tensor=cut.tensor,
        layout=stages[0].layout,
        built=undivided or stages[0].layout is not None,
        batch=stages[0].batch,
        shards=tuple(shards),
        stage_ms=tuple(stage.ms for stage in stages),
        hop_ms=(*hops, *back) or (0.0, 0.0),
        bundles=bundles(cut.target, needed, compute_threads),
        placement=placement,
    )


REPLICA_BUNDLE = {"memory": 1.0}
"""Resources of the replica's process if shards compute for it: a bundle must not be empty, and
one byte is the minimum."""


def bundles(target: str, shards: int, compute_threads: int) -> tuple[dict[str, float], ...]:
    """Return Ray's resources of a replica and its shards; a whole model computes in the replica."""
    bundle: dict[str, float] = {"CPU": float(compute_threads)}
    if target.startswith("cuda-"):
        bundle["GPU"] = 1.0
    return (bundle,) if shards == 1 else (REPLICA_BUNDLE, *([bundle] * shards))


def _select(devices: Sequence[Device], count: int, placement: Placement) -> list[int] | None:
    """Return device indices: node by node (PACK), from one node, or from each node in turn."""
    by_node: dict[int, list[int]] = {}
    for index, device in enumerate(devices):
        by_node.setdefault(device.node, []).append(index)
    if placement == "SPREAD":
        ordered: list[int] = []
        queues = [list(indices) for indices in by_node.values()]
        while len(ordered) < count:
            ordered += [queue.pop(0) for queue in queues if queue]
        return ordered[:count]
    fullest = sorted(by_node.values(), key=len, reverse=True)
    if placement == "STRICT_PACK" and len(fullest[0]) < count:
        return None
    # The smallest sufficient node, so that larger ones stay free for larger replicas.
    if fits := [indices for indices in fullest if len(indices) >= count]:
        return min(fits, key=len)[:count]
    return [index for indices in fullest for index in indices][:count]


def _nearest(
    manifest: Manifest,
    target: str,
    devices: Sequence[Device],
    batch: int,
    placement: Placement,
    compute_threads: int,
) -> str:
    """Return a sentence about the cut of fewest stages that would fit, built or not."""
    available = [device for device in devices if device.target == target]
    for cut in _possible(manifest, target, len(available)):
        placed = _place(
            manifest, estimate(manifest, cut, batch), available, placement, compute_threads
        )
        if isinstance(placed, ShardPlan):
            name = name_of(cut.pipeline, cut.tensor)
            build = (
                ""
                if placed.built
                else (
                    f"; it is not built yet: add `parallel: [{{pipeline: {cut.pipeline}}}]` to the "
                    "recipe"
                )
            )
            return (
                f". {name} would fit: {size_text(placed.memory_bytes)} on its largest device{build}"
            )
    fewer = max(1, batch // 2)
    return (
        f". No number of stages up to {len(available)} fits; use more or larger devices, or "
        f"batches of {fewer}"
    )


def _possible(manifest: Manifest, target: str, devices: int) -> Iterable[Cut]:
    return [Cut(target, count, 1) for count in pipelines(manifest) if count <= devices]

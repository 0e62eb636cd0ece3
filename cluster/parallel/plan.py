"""Planning: which cut of a model goes onto which devices, what it needs there and what it reaches.

manifest ─ layouts, built and measured ─┐
         └ profile, for any other cut ──┴→ estimate of every stage ─→ fits the devices? ─→ ShardPlan

No weights are touched. What a layout measured is taken as it is; a cut that was not built yet is
estimated from its operators' share of the whole program's time.
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
"""Micro-batches that a shard's transport holds at most: one arriving, one waiting, one computed,
one leaving."""


@dataclass(frozen=True)
class ShardPlace:
    """One shard, the device it goes to, and what it fills there."""

    stage: int
    tp_rank: int
    device: int
    node: int
    weight_bytes: int
    activation_bytes: int
    buffer_bytes: int

    @property
    def memory_bytes(self) -> int:
        """All of it."""
        return self.weight_bytes + self.activation_bytes + self.buffer_bytes


@dataclass(frozen=True)
class ShardPlan:
    """A cut, placed: what one replica of the model is to be."""

    model: str
    target: str
    pipeline: int
    tensor: int
    layout: str | None
    """Key of the artifact's layout; None: the whole program, or a cut that is not built yet."""

    built: bool
    batch: int
    shards: tuple[ShardPlace, ...]
    stage_ms: tuple[float, ...]
    """Of one micro-batch of ``batch`` items, without transport."""

    hop_ms: tuple[float, ...]
    """Bringing it into each stage, and last the answer back."""

    bundles: tuple[dict[str, float], ...]
    """Of the placement group: the replica's own, then one per shard."""

    placement: Placement

    @property
    def devices(self) -> int:
        """Devices of one replica."""
        return len(self.shards)

    @property
    def latency_ms(self) -> float:
        """Of one micro-batch through an idle pipeline."""
        return sum(self.stage_ms) + sum(self.hop_ms)

    @property
    def items_per_s(self) -> float:
        """With enough micro-batches in flight: what the slowest stage lets through."""
        return self.batch / self.slowest_ms * 1e3

    @property
    def slowest_ms(self) -> float:
        """Of the slowest stage, with handing its result on."""
        return max(
            ms + _OWN_SHARE * hop for ms, hop in zip(self.stage_ms, self.hop_ms[1:], strict=True)
        )

    @property
    def memory_bytes(self) -> int:
        """What the fullest shard fills."""
        return max(shard.memory_bytes for shard in self.shards)


_OWN_SHARE = 0.5
"""Of a hop's time, what occupies the sending stage's own core, which copies the result: waking the
receiver passes beside the next micro-batch."""


def plan(
    manifest: Manifest,
    devices: Sequence[Device],
    *,
    pipeline: int | None = None,
    tensor: int | None = None,
    batch: int = 8,
    compute_threads: int = 1,
    placement: Placement = "PACK",
    most_devices: int | None = None,
) -> ShardPlan:
    """The plan for that cut, or with None the one of fewest devices that fits, then the fastest;
    of one cut for several targets, one that is built.

    ``most_devices``: that one replica may take. With neither ``pipeline`` nor ``tensor`` only cuts
    that the artifact holds are looked at, the whole model among them. PlanError, with the numbers
    and the nearest plan that would do, if none fits the devices.
    """
    targets = [t for t in dict.fromkeys(d.target for d in devices) if t in _targets(manifest)]
    if not targets:
        has = ", ".join(dict.fromkeys(device.target for device in devices)) or "none"
        raise PlanError(
            f"{manifest.name} has programs for {', '.join(_targets(manifest)) or 'no target'}, the "
            f"devices are {has}; build it for them, or give devices of its targets"
        )
    refused: list[str] = []
    found: list[ShardPlan] = []
    for target in targets:
        own = [device for device in devices if device.target == target]
        for cut in _cuts(manifest, target, pipeline, tensor, len(own)):
            wanted = cut.pipeline * cut.tensor
            if most_devices is not None and wanted > most_devices:
                name = name_of(cut.pipeline, cut.tensor)
                refused.append(f"{name} needs {wanted} devices, at most {most_devices} are allowed")
                continue
            try:
                stages = estimate(manifest, cut, batch)
            except PlanError as error:  # another target may have what this one lacks
                refused.append(str(error))
                continue
            made = _placed(manifest, stages, own, placement, compute_threads)
            if isinstance(made, ShardPlan):
                found.append(made)
            else:
                refused.append(made)
    if not found:
        raise PlanError(
            f"no plan for {manifest.name} fits: {'; '.join(refused) or 'nothing to choose from'}"
            f"{_nearest(manifest, targets[0], devices, batch, placement, compute_threads)}"
        )
    return min(found, key=lambda each: (not each.built, each.devices, each.latency_ms))


def _targets(manifest: Manifest) -> tuple[str, ...]:
    return tuple(dict.fromkeys(entry.target for entry in manifest.programs))


def _cuts(
    manifest: Manifest, target: str, pipeline: int | None, tensor: int | None, devices: int
) -> list[Cut]:
    """What to look at: the one cut that is asked for, or the built ones that agree with it."""
    if pipeline is not None and tensor is not None:
        return [Cut(target, pipeline, tensor)]
    built = [Cut(target, 1, 1)]
    built += [Cut(target, e.pipeline, e.tensor) for e in manifest.layouts if e.target == target]
    agree = [
        cut for cut in built if pipeline in (None, cut.pipeline) and tensor in (None, cut.tensor)
    ]
    if agree:
        return agree
    return [Cut(target, pipeline or 1, tensor or 1)]


def _placed(
    manifest: Manifest,
    stages: Sequence[StageEstimate],
    devices: Sequence[Device],
    placement: Placement,
    compute_threads: int,
) -> ShardPlan | str:
    """The stages on the devices, near ones beside each other; or why they do not fit."""
    cut = stages[0].cut
    name = name_of(cut.pipeline, cut.tensor)
    wanted = cut.pipeline * cut.tensor
    if wanted > len(devices):
        return f"{name} needs {wanted} devices of {cut.target}, there are {len(devices)}"
    nodes = [device.node for device in devices]
    if placement == "SPREAD" and wanted > 1 and len(set(nodes)) == 1:
        return (
            f"{name} with placement SPREAD needs devices on several nodes, all are on one; take "
            "PACK"
        )
    chosen = _chosen(devices, wanted, placement)
    if chosen is None:
        most = max(nodes.count(node) for node in set(nodes))
        return (
            f"{name} with placement STRICT_PACK needs {wanted} devices on one node, the most there "
            f"are on one is {most}; take PACK"
        )
    shards = []
    for stage in stages:
        for rank in range(cut.tensor):
            index = chosen[stage.number * cut.tensor + rank]
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
                f"{name}: stage {shard.stage} fills {size_text(shard.memory_bytes)} "
                f"({size_text(shard.weight_bytes)} weights, {size_text(shard.activation_bytes)} "
                f"activations at batch {stages[0].batch}, {size_text(shard.buffer_bytes)} "
                f"transport), its device has {size_text(limit)}"
            )
    whole = wanted == 1
    sent = [] if whole else [each.arriving_bytes for each in stages]
    hops = [LOOPBACK.ms(size * stages[0].batch) for size in sent]
    back = [] if whole else [LOOPBACK.ms(stages[-1].leaving_bytes * stages[0].batch)]
    return ShardPlan(
        model=manifest.name,
        target=cut.target,
        pipeline=cut.pipeline,
        tensor=cut.tensor,
        layout=stages[0].layout,
        built=whole or stages[0].layout is not None,
        batch=stages[0].batch,
        shards=tuple(shards),
        stage_ms=tuple(each.ms for each in stages),
        hop_ms=(*hops, *back) or (0.0, 0.0),
        bundles=bundles(cut.target, wanted, compute_threads),
        placement=placement,
    )


REPLICA_BUNDLE = {"memory": 1.0}
"""What the replica's own process takes where its shards compute: a bundle may not be empty, and a
byte is the least there is."""


def bundles(target: str, shards: int, compute_threads: int) -> tuple[dict[str, float], ...]:
    """Ray's resources for a replica and its shards; a whole model computes in the replica."""
    own: dict[str, float] = {"CPU": float(compute_threads)}
    if target.startswith("cuda-"):
        own = {"CPU": float(compute_threads), "GPU": 1.0}
    return (own,) if shards == 1 else (REPLICA_BUNDLE, *([own] * shards))


def _chosen(devices: Sequence[Device], wanted: int, placement: Placement) -> list[int] | None:
    """Indices of devices: from one node on (PACK), from one alone, or from each in turn."""
    by_node: dict[int, list[int]] = {}
    for index, device in enumerate(devices):
        by_node.setdefault(device.node, []).append(index)
    if placement == "SPREAD":
        ordered: list[int] = []
        queues = [list(each) for each in by_node.values()]
        while len(ordered) < wanted:
            ordered += [queue.pop(0) for queue in queues if queue]
        return ordered[:wanted]
    fullest = sorted(by_node.values(), key=len, reverse=True)
    if placement == "STRICT_PACK" and len(fullest[0]) < wanted:
        return None
    # The smallest node that holds all, so that larger ones stay whole for larger replicas.
    if fits := [each for each in fullest if len(each) >= wanted]:
        return min(fits, key=len)[:wanted]
    return [index for each in fullest for index in each][:wanted]


def _nearest(
    manifest: Manifest, target: str, devices: Sequence[Device], batch: int, placement: Placement,
    compute_threads: int,
) -> str:  # fmt: skip
    """The cut of fewest stages that would fit, built or not; empty if none would."""
    own = [device for device in devices if device.target == target]
    for cut in _possible(manifest, target, len(own)):
        made = _placed(manifest, estimate(manifest, cut, batch), own, placement, compute_threads)
        if isinstance(made, ShardPlan):
            name = name_of(cut.pipeline, cut.tensor)
            build = (
                ""
                if made.built
                else (
                    f"; it is not built yet: add `parallel: [{{pipeline: {cut.pipeline}}}]` to the "
                    "recipe"
                )
            )
            return (
                f". {name} would fit: {size_text(made.memory_bytes)} on its fullest device{build}"
            )
    fewer = max(1, batch // 2)
    return (
        f". No number of stages up to {len(own)} fits; give more or larger devices, or try batches "
        f"of {fewer}"
    )


def _possible(manifest: Manifest, target: str, devices: int) -> Iterable[Cut]:
    return [Cut(target, count, 1) for count in pipelines(manifest) if count <= devices]

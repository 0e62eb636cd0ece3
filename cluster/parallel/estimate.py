"""Estimate of every stage of a cut: time, memory and transferred bytes.

built layout      → measured values, interpolated between two batch sizes
any other cut     → profile → balanced → its operators' share of the whole program's time
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.artifact.entries import Latency
from cluster.artifact.layout import Layout, Profile
from cluster.artifact.manifest import Manifest
from cluster.errors import PlanError
from cluster.parallel.balance import balance
from cluster.parallel.link import LOOPBACK, SHARED_MEMORY
from cluster.tensors import TensorSpec


@dataclass(frozen=True)
class Cut:
    """Stages × tensor ranks, for one target."""

    target: str
    pipeline: int
    tensor: int


@dataclass(frozen=True)
class StageEstimate:
    """Estimate of one stage of a cut, for micro-batches of ``batch`` items."""

    cut: Cut
    number: int
    layout: str | None
    """Key of the measured layout; None: estimated from the profile."""

    batch: int
    ms: float
    weight_bytes: int
    """Bytes per rank."""

    activation_bytes: int
    """Bytes per item."""

    arriving_bytes: int
    """Bytes per item."""

    leaving_bytes: int
    """Bytes per item."""


def estimate(manifest: Manifest, cut: Cut, batch: int) -> tuple[StageEstimate, ...]:
    """Return the estimate of every stage; PlanError if the model cannot be cut like this."""
    for layout in manifest.layouts:
        if (layout.target, layout.pipeline, layout.tensor) == (
            cut.target,
            cut.pipeline,
            cut.tensor,
        ):
            return _from_layout(layout, cut, batch)
    if cut.pipeline == cut.tensor == 1:
        return (_undivided(manifest, cut, batch),)
    return _from_profile(manifest, cut, batch)


def pipelines(manifest: Manifest) -> range:
    """Return the possible numbers of stages of the model."""
    return range(1, (len(manifest.profile.segments) if manifest.profile else 1) + 1)


def at_batch(latency: Sequence[Latency], batch: int) -> float:
    """Return the milliseconds at a batch size, interpolated between measurements.

    Outside the measured range, the line through the nearest two continues. A single measurement is
    scaled in proportion.
    """
    points = sorted((entry.batch, entry.p50_ms) for entry in latency)
    if len(points) == 1:
        return points[0][1] * batch / points[0][0]
    upper = next((i for i, (size, _) in enumerate(points) if size >= batch), len(points) - 1)
    (low, low_ms), (high, high_ms) = points[max(upper, 1) - 1], points[max(upper, 1)]
    return low_ms + (high_ms - low_ms) * (batch - low) / (high - low)


def _from_layout(layout: Layout, cut: Cut, batch: int) -> tuple[StageEstimate, ...]:
    return tuple(
        StageEstimate(
            cut=cut,
            number=number,
            layout=layout.key,
            batch=batch,
            ms=at_batch(layout.shard(number, 0).latency, batch),
            weight_bytes=max(layout.shard(number, r).weight_bytes for r in range(cut.tensor)),
            activation_bytes=layout.shard(number, 0).activation_bytes,
            arriving_bytes=_bytes(layout.crossing[number]),
            leaving_bytes=_bytes(layout.crossing[number + 1]),
        )
        for number in range(cut.pipeline)
    )


def _undivided(manifest: Manifest, cut: Cut, batch: int) -> StageEstimate:
    measured = manifest.winner(cut.target)
    segments = manifest.profile.segments if manifest.profile else ()
    return StageEstimate(
        cut=cut,
        number=0,
        layout=None,
        batch=batch,
        ms=at_batch(measured.latency, batch),
        weight_bytes=measured.size_bytes,
        activation_bytes=max((segment.activation_bytes for segment in segments), default=0),
        arriving_bytes=_bytes(manifest.inputs),
        leaving_bytes=_bytes(manifest.outputs),
    )


def _from_profile(manifest: Manifest, cut: Cut, batch: int) -> tuple[StageEstimate, ...]:
    profile = manifest.profile
    if profile is None:
        raise PlanError(
            f"{manifest.name} has no profile, so only its layouts can be planned: "
            f"{', '.join(layout.key for layout in manifest.layouts) or 'none'}; build it again"
        )
    slicing = _slicing(profile, cut, manifest.name)
    whole = manifest.winner(cut.target)
    segments = profile.segments
    cost = [segment.cost_ms for segment in segments]
    crossing = [LOOPBACK.ms(s.carried_bytes * profile.batch) for s in segments[:-1]]
    borders = [-1, *balance(cost, crossing, cut.pipeline), len(segments) - 1]
    per_cost = at_batch(whole.latency, batch) / sum(cost) * slicing.cost
    # The ratio of compiled to operator bytes is taken from the whole program.
    per_byte = whole.size_bytes / max(1, sum(segment.weight_bytes for segment in segments))
    estimates = []
    for number in range(cut.pipeline):
        part = segments[borders[number] + 1 : borders[number + 1] + 1]
        first, last = number == 0, number == cut.pipeline - 1
        reduces = slicing.reduces * sum(s.cost_ms for s in part) / sum(cost)
        estimates.append(
            StageEstimate(
                cut=cut,
                number=number,
                layout=None,
                batch=batch,
                ms=sum(segment.cost_ms for segment in part) * per_cost
                + reduces * SHARED_MEMORY.ms(slicing.reduced_bytes * batch),
                weight_bytes=int(sum(s.weight_bytes for s in part) * per_byte * slicing.weights),
                activation_bytes=max(segment.activation_bytes for segment in part),
                arriving_bytes=_bytes(manifest.inputs)
                if first
                else segments[borders[number]].carried_bytes,
                leaving_bytes=_bytes(manifest.outputs) if last else part[-1].carried_bytes,
            )
        )
    return tuple(estimates)


@dataclass(frozen=True)
class _Slicing:
    """Effect of slicing: shares that remain on each rank, and its all-reduces."""

    cost: float = 1.0
    weights: float = 1.0
    reduces: int = 0
    reduced_bytes: int = 0


def _slicing(profile: Profile, cut: Cut, name: str) -> _Slicing:
    if cut.tensor == 1:
        return _Slicing()
    tensor = profile.tensor
    if tensor is None:
        raise PlanError(
            f"tensor={cut.tensor}: {name} belongs to no family with a built-in plan for tensor "
            "slices; use pipeline stages, or name its layers in the recipe's parallel.slices"
        )
    if cut.tensor not in tensor.degrees:
        raise PlanError(
            f"tensor={cut.tensor} does not divide the sliced layers of {name}; use one of "
            f"{', '.join(map(str, tensor.degrees))}"
        )
    total = max(1, sum(segment.weight_bytes for segment in profile.segments))
    weights = 1 - tensor.sliced_bytes / total * (1 - 1 / cut.tensor)
    return _Slicing(
        cost=1 - tensor.sliced_cost * (1 - 1 / cut.tensor),
        weights=weights,
        reduces=tensor.reduces,
        reduced_bytes=tensor.reduced_bytes,
    )


def _bytes(specs: Sequence[TensorSpec]) -> int:
    return sum(spec.item_bytes for spec in specs)

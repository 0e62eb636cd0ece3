"""What a manifest says of a model cut into shards, and of where it could be cut.

    Profile   the model between its possible cuts, and what its tensor slices would exchange
    Layout    one way it was cut: pipeline stages × tensor ranks, each a program of its own

A planner reads these instead of weights.
"""

from __future__ import annotations

from itertools import product

from pydantic import Field, model_validator

from cluster.artifact.entries import Latency, Line, ProgramEntry, Record
from cluster.tensors import TensorSpec


class Segment(Record):
    """The operators between two places where the model may be cut."""

    last: str = Field(description="Name of its last operator.")
    cost_ms: float = Field(
        description="Of the profile's batch, its operators one by one in PyTorch."
    )
    weight_bytes: int = Field(description="Parameters that its operators read.")
    activation_bytes: int = Field(description="Most that is alive in it, per item of the batch.")
    carried_bytes: int = Field(description="What crosses to the next segment, per item.")


class TensorProfile(Record):
    """What tensor slices of the model would share and exchange."""

    degrees: tuple[int, ...] = Field(description="Degrees that divide every sliced layer.")
    sliced_cost: float = Field(description="Share of the cost that is divided by the degree, 0..1.")
    sliced_bytes: int = Field(description="Weights that are divided by the degree.")
    reduces: int = Field(description="All-reduces in one run.")
    reduced_bytes: int = Field(description="What one of them sums, per item.")


class Profile(Record):
    """Where the model can be cut, and what its parts cost."""

    batch: int
    segments: tuple[Segment, ...]
    tensor: TensorProfile | None = Field(
        default=None, description="null where the model is of no family that can be sliced."
    )


class Shard(Record):
    """One stage on one tensor rank."""

    stage: int
    tp_rank: int
    program: ProgramEntry = Field(description="Its `inputs` are what the stage uses.")
    outputs: tuple[TensorSpec, ...] = Field(description="What the program makes, in its order.")
    weights: Line = Field(description="Path of its slice of the tensors inside the artifact.")
    weight_bytes: int = Field(description="Tensors of that slice.")
    activation_bytes: int = Field(description="Most that is alive in it, per item of the batch.")
    latency: tuple[Latency, ...] = Field(
        default=(), description="Of its program, all ranks of the stage at once, no transport."
    )


class Layout(Record):
    """One way the model was cut."""

    target: Line
    kind: Line = Field(description="Of all its programs: an entry of program.PROGRAM_KINDS.")
    pipeline: int = Field(ge=1, description="Stages.")
    tensor: int = Field(ge=1, description="Tensor ranks of every stage.")
    crossing: tuple[tuple[TensorSpec, ...], ...] = Field(
        description="What enters each stage, and last what leaves the model."
    )
    after: tuple[str, ...] = Field(description="The operators behind which it was cut.")
    shards: tuple[Shard, ...] = Field(description="By stage, then by rank.")
    reduces: tuple[int, ...] = Field(description="All-reduces in one run of each stage.")
    reduced_bytes: int = Field(default=0, description="What one all-reduce sums, per item.")

    @model_validator(mode="after")
    def _chains(self) -> Layout:
        """Every shard is there, and each stage gets what it takes from those before it."""
        given = [(shard.stage, shard.tp_rank) for shard in self.shards]
        stages, ranks = range(self.pipeline), range(self.tensor)
        # Counted first: whoever wrote the numbers may have written any.
        if len(given) != self.pipeline * self.tensor or given != [*product(stages, ranks)]:
            raise ValueError(
                f"layout {self.key} has the shards {given}, expected one for each of "
                f"{self.pipeline} stages × {self.tensor} tensor ranks, in order"
            )
        batches = {tuple(each.batch for each in shard.latency) for shard in self.shards}
        if len(batches) > 1:
            raise ValueError(f"layout {self.key}: shards were measured at other batches: {batches}")
        if len(self.crossing) != self.pipeline + 1:
            raise ValueError(
                f"layout {self.key} has {self.pipeline} stages, so {self.pipeline + 1} sets of "
                f"tensors cross their borders; it names {len(self.crossing)}"
            )
        for shard in self.shards:
            where = f"layout {self.key}, stage {shard.stage}, rank {shard.tp_rank}"
            arrives = set(self.crossing[shard.stage])
            takes = set(shard.program.inputs or ())
            if missing := sorted(spec.name for spec in takes - arrives):
                raise ValueError(f"{where} takes {', '.join(missing)}, which does not arrive there")
            leaves = set(self.crossing[shard.stage + 1])
            if missing := sorted(spec.name for spec in leaves - arrives - set(shard.outputs)):
                raise ValueError(f"{where} hands on {', '.join(missing)}, which it does not have")
        return self

    @property
    def key(self) -> str:
        """Such as ``cpu-x86/aoti/pp2.tp1``."""
        return f"{self.target}/{self.kind}/{name_of(self.pipeline, self.tensor)}"

    def shard(self, stage: int, tp_rank: int) -> Shard:
        """The shard of that place."""
        return self.shards[stage * self.tensor + tp_rank]

    def stage_ms(self, batch: int) -> tuple[float, ...]:
        """Median milliseconds of each stage at a batch size that was measured."""
        return tuple(
            next(e.p50_ms for e in self.shard(stage, 0).latency if e.batch == batch)
            for stage in range(self.pipeline)
        )


def name_of(pipeline: int, tensor: int) -> str:
    """Such as ``pp2.tp1``: how a layout is called in paths and messages."""
    return f"pp{pipeline}.tp{tensor}"

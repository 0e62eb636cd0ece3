"""Manifest records of a model cut into shards, and of its possible cuts.

    Profile   the model between its possible cuts, and the data that tensor slices would exchange
    Layout    one built cut: pipeline stages × tensor ranks, each with its own program

A planner reads these instead of weights.
"""

from __future__ import annotations

from itertools import product

from pydantic import Field, model_validator

from cluster.artifact.entries import Latency, Line, ProgramEntry, Record
from cluster.tensors import TensorSpec


class Segment(Record):
    """The operators between two adjacent possible cuts."""

    last: str = Field(description="Name of its last operator.")
    cost_ms: float = Field(
        description="Time at the profile's batch, operators one by one in PyTorch."
    )
    weight_bytes: int = Field(description="Parameters that its operators read.")
    activation_bytes: int = Field(description="Peak of live activations, per item of the batch.")
    carried_bytes: int = Field(description="Bytes that cross to the next segment, per item.")


class TensorProfile(Record):
    """Shares and transfers of the model's tensor slices."""

    degrees: tuple[int, ...] = Field(description="Degrees that divide every sliced layer.")
    sliced_cost: float = Field(description="Share of the cost that is divided by the degree, 0..1.")
    sliced_bytes: int = Field(description="Weights that are divided by the degree.")
    reduces: int = Field(description="All-reduces in one run.")
    reduced_bytes: int = Field(description="Bytes of one all-reduce, per item.")


class Profile(Record):
    """Possible cuts of the model, and the cost of its parts."""

    batch: int
    segments: tuple[Segment, ...]
    tensor: TensorProfile | None = Field(
        default=None, description="null if the model belongs to no family with tensor slices."
    )


class Shard(Record):
    """One stage on one tensor rank."""

    stage: int
    tp_rank: int
    program: ProgramEntry = Field(description="Its `inputs` are the tensors that the stage uses.")
    outputs: tuple[TensorSpec, ...] = Field(description="Outputs of the program, in its order.")
    weights: Line = Field(description="Path of its slice of the tensors inside the artifact.")
    weight_bytes: int = Field(description="Tensors of that slice.")
    activation_bytes: int = Field(description="Peak of live activations, per item of the batch.")
    latency: tuple[Latency, ...] = Field(
        default=(),
        description="Latency of its program, all ranks of the stage at once, no transport.",
    )


class Layout(Record):
    """One built cut of the model."""

    target: Line
    kind: Line = Field(description="Kind of all its programs: a key of program.PROGRAM_KINDS.")
    pipeline: int = Field(ge=1, description="Number of stages.")
    tensor: int = Field(ge=1, description="Tensor ranks per stage.")
    crossing: tuple[tuple[TensorSpec, ...], ...] = Field(
        description="Tensors that enter each stage, and last the outputs of the model."
    )
    after: tuple[str, ...] = Field(description="The last operator before each cut.")
    shards: tuple[Shard, ...] = Field(description="By stage, then by rank.")
    reduces: tuple[int, ...] = Field(description="All-reduces in one run of each stage.")
    reduced_bytes: int = Field(default=0, description="Bytes of one all-reduce, per item.")

    @model_validator(mode="after")
    def _chains(self) -> Layout:
        """Check that all shards exist and each stage receives its inputs from earlier stages."""
        places = [(shard.stage, shard.tp_rank) for shard in self.shards]
        stages, ranks = range(self.pipeline), range(self.tensor)
        # Counted first: the numbers are untrusted and may be huge.
        if len(places) != self.pipeline * self.tensor or places != [*product(stages, ranks)]:
            raise ValueError(
                f"layout {self.key} has the shards {places}, expected one for each of "
                f"{self.pipeline} stages × {self.tensor} tensor ranks, in order"
            )
        batches = {tuple(entry.batch for entry in shard.latency) for shard in self.shards}
        if len(batches) > 1:
            raise ValueError(
                f"layout {self.key}: shards were measured at different batches: {batches}"
            )
        if len(self.crossing) != self.pipeline + 1:
            raise ValueError(
                f"layout {self.key} has {self.pipeline} stages, so {self.pipeline + 1} sets of "
                f"crossing tensors are expected, got {len(self.crossing)}"
            )
        for shard in self.shards:
            place = f"layout {self.key}, stage {shard.stage}, rank {shard.tp_rank}"
            arriving = set(self.crossing[shard.stage])
            inputs = set(shard.program.inputs or ())
            if missing := sorted(spec.name for spec in inputs - arriving):
                raise ValueError(f"{place} takes {', '.join(missing)}, which does not arrive there")
            leaving = set(self.crossing[shard.stage + 1])
            if missing := sorted(spec.name for spec in leaving - arriving - set(shard.outputs)):
                raise ValueError(f"{place} passes on {', '.join(missing)}, which it does not have")
        return self

    @property
    def key(self) -> str:
        """Key of the layout, such as ``cpu-x86/aoti/pp2.tp1``."""
        return f"{self.target}/{self.kind}/{name_of(self.pipeline, self.tensor)}"

    def shard(self, stage: int, tp_rank: int) -> Shard:
        """Return the shard of a stage and tensor rank."""
        return self.shards[stage * self.tensor + tp_rank]

    def stage_ms(self, batch: int) -> tuple[float, ...]:
        """Return median milliseconds of each stage at a measured batch size."""
        return tuple(
            next(e.p50_ms for e in self.shard(stage, 0).latency if e.batch == batch)
            for stage in range(self.pipeline)
        )


def name_of(pipeline: int, tensor: int) -> str:
    """Return the short name of a cut for paths and messages, such as ``pp2.tp1``."""
    return f"pp{pipeline}.tp{tensor}"

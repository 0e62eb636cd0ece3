"""One shard as a Ray actor: its program, its end of the transport, its thread.

load()     artifact → this stage's program alone, hashes checked → its first runs
serve()    transport connected → Shard.serve, until the group stops or a peer is lost
figures()  what it has done; also the sign of life that the replica asks for

Ray places, starts, watches and ends it. What it computes with never passes through Ray.
"""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import dataclass

import ray

from cluster.artifact.store import open_store
from cluster.config.serving import ModelArgs
from cluster.program import program as programs
from cluster.program.stage import StageProgram
from cluster.runtime.gloo import Address, GlooTransport
from cluster.runtime.shard import Shard, ShardFigures
from cluster.runtime.topology import Topology

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ShardSpec:
    """Which shard of which model an actor is."""

    model: ModelArgs
    artifact_id: str
    layout: str
    stage: int
    tp_rank: int
    batches: tuple[int, ...]
    """Batch sizes that are run once before the first request."""

    start_timeout_s: float


@dataclass(frozen=True)
class ShardHome:
    """Where an actor runs."""

    node_id: str
    ip: str
    pid: int


class ShardActor:
    """The actor class; a replica makes one per shard."""

    def __init__(self, spec: ShardSpec) -> None:
        self._spec = spec
        self._shard: Shard | None = None

    def load(self) -> ShardHome:
        """Load the program and run it once per batch size."""
        spec = self._spec
        artifact = open_store(spec.model.store).open(spec.artifact_id)
        layout = artifact.manifest.layout(spec.layout)
        shard = layout.shard(spec.stage, spec.tp_rank)
        program = programs.load_entry(artifact, shard.program, spec.model.compute_threads)
        self._stage = StageProgram(layout, shard, program)
        self._topology = Topology(layout.pipeline, layout.tensor)
        return ShardHome(ray.get_runtime_context().get_node_id(), node_ip(), os.getpid())

    def serve(self, meeting: Address) -> None:
        """Meet the other processes, then compute until the group ends.

        TransportError if a peer does not come, or is lost.
        """
        spec, topology = self._spec, self._topology
        _leave_cores_alone(spec.model.compute_threads)
        transport = GlooTransport(
            meeting,
            topology.rank(spec.stage, spec.tp_rank),
            topology.size,
            node_ip(),
            spec.start_timeout_s,
        )
        self._shard = Shard(
            self._stage.run,
            transport,
            topology.source(spec.stage, spec.tp_rank),
            topology.targets(spec.stage, spec.tp_rank),
        )
        self._shard.serve()

    def figures(self) -> ShardFigures:
        """What the shard has done so far; all zero before it serves."""
        return ShardFigures() if self._shard is None else self._shard.figures()


def node_ip() -> str:
    """The address by which the cluster's other nodes reach this one: the only one bound."""
    found: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    return found


def _leave_cores_alone(compute_threads: int) -> None:
    """Keep PyTorch, which the transport brings along, from starting a thread per core."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(compute_threads)

"""Ray actor of one shard: its program, its end of the transport, its thread.

load()     artifact → this shard's program, hashes checked → join the ranks of its stage
serve()    connect the transport → ShardLoop.serve, until the group stops or a peer is lost; called
           again after a move of other shards
counters()  counters of the shard; also its heartbeat

Ray places, starts, watches and ends the actor. Tensors do not pass through Ray.
"""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from cluster.artifact.served import BoundModel, open_bound
from cluster.program import program as programs
from cluster.program.aoti import create_group, open_group, runner_of
from cluster.program.collective import LateGroup, ProcessGroupSum
from cluster.program.stage import StageProgram
from cluster.runtime import gloo
from cluster.runtime.gloo import Address, GlooTransport
from cluster.runtime.shard import ShardCounters, ShardLoop
from cluster.runtime.topology import Topology

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ShardSpec:
    """Identity of a shard: its model, layout, stage and rank."""

    model: BoundModel
    layout: str
    stage: int
    tp_rank: int
    failure_timeout_s: float


@dataclass(frozen=True)
class ShardHome:
    """Node and process of an actor."""

    node_id: str
    ip: str
    pid: int


class ShardActor:
    """Actor class of a shard; a replica starts one per shard."""

    def __init__(self, spec: ShardSpec) -> None:
        self._spec = spec
        self._shard: ShardLoop | None = None
        self._late: LateGroup | None = None

    def home(self) -> ShardHome:
        """Return the node and process of this shard."""
        context = ray.get_runtime_context()
        return ShardHome(context.get_node_id(), node_ip(), os.getpid())

    def load(self, same_node: bool, group: str | None) -> str | None:
        """Load the program; return the address at which the stage's other tensor ranks join.

        None if the ranks do not add in shared memory. ``same_node``: whether all ranks of the
        stage are on this node. ``group``: the address from rank 0, for the other ranks.
        """
        spec = self._spec
        gloo.prepare()
        artifact = open_bound(spec.model)
        layout = artifact.manifest.layout(spec.layout)
        shard = layout.shard(spec.stage, spec.tp_rank)
        self._topology = Topology(layout.pipeline, layout.tensor)
        sums: Any = None
        if layout.tensor > 1:
            sums = self._sums(runner_of(artifact, shard.program), same_node, group)
        program = programs.load_entry(
            artifact, shard.program, spec.model.args.compute_threads, sums
        )
        self._stage = StageProgram(layout, shard, program)
        return getattr(sums, "address", None)

    def _sums(self, runner: Path | None, same_node: bool, group: str | None) -> Any:
        """Return the group of the stage's ranks: in shared memory, or later over the transport."""
        spec = self._spec
        if same_node and runner is not None:
            if spec.tp_rank == 0:
                return create_group(runner, self._topology.tensor_ranks, spec.failure_timeout_s)
            if group is not None:
                return open_group(runner, group, spec.tp_rank, spec.failure_timeout_s)
        self._late = LateGroup()
        return self._late

    def serve(self, meeting: Address, timeout_s: float, counters: ShardCounters) -> None:
        """Connect to the other processes, then serve until the group ends.

        ``counters``: those of the shard so far, also from before a move. Raises TransportError
        if a peer does not connect within ``timeout_s``, or is lost.
        """
        spec, topology = self._spec, self._topology
        transport = GlooTransport(
            meeting,
            topology.rank(spec.stage, spec.tp_rank),
            topology.size,
            node_ip(),
            timeout_s,
        )
        if self._late is not None:
            between = transport.sub_group(topology.tensor_group(spec.stage))
            self._late.joined = ProcessGroupSum(between, spec.failure_timeout_s)
        _limit_torch_threads(spec.model.args.compute_threads)
        self._shard = ShardLoop(
            self._stage.run,
            transport,
            topology.source(spec.stage, spec.tp_rank),
            topology.targets(spec.stage, spec.tp_rank),
            counters=counters,
        )
        self._shard.serve()

    def counters(self) -> ShardCounters:
        """Return the counters of the shard; all zero before it serves."""
        return ShardCounters() if self._shard is None else self._shard.counters()


def node_ip() -> str:
    """Return the address of this node in the cluster: the only one that is bound."""
    ip: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    return ip


def _limit_torch_threads(compute_threads: int) -> None:
    """Keep PyTorch, which the transport imports, from starting a thread per core."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(compute_threads)

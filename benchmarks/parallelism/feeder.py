"""Actor in a replica's place, without HTTP: its program, fed in the same process.

    ModelArgs ┬→ whole: the artifact's program, in this process, one thread
              └→ cut:   deployments.shards.program.ShardedProgram, its shards actors of their own,
                        ShardGroup.run from as many threads as the pipeline takes micro-batches

The actor is the replica's bundle of the placement group, as the replica is.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from benchmarks.parallelism import pace
from benchmarks.parallelism.fed import FeedResult
from benchmarks.parallelism.inputs import items, some
from cluster.artifact.served import bind, open_bound
from cluster.config.serving import ModelArgs
from cluster.program import program as programs
from cluster.runtime.shard import ShardCounters
from deployments.model.replica import SWITCH_INTERVAL_S, choose_program
from deployments.shards.program import ShardedProgram
from deployments.shards.watch import HEARTBEAT_S

_DISTINCT = 8


class Feeder:
    """Actor class. ``layout``: key of the cut, or None for the whole program."""

    def __init__(self, args: ModelArgs, layout: str | None) -> None:
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        model = bind(args)
        artifact = open_bound(model)
        self._counters: Sequence[ShardCounters] = ()
        self._sharded: ShardedProgram | None = None
        self._run: Callable[[list[np.ndarray]], object]
        self._in_flight = 1
        if layout is None:
            entry = choose_program(artifact).entry
            self._run = programs.load_entry(artifact, entry, args.compute_threads).run
        else:
            cut = model.manifest.layout(layout)
            self._sharded = ShardedProgram.start(model, cut, self._keep, _lost)
            self._run, self._in_flight = self._sharded.run, self._sharded.lanes

    def feed(self, model: str, batches: Sequence[int], seconds: float) -> FeedResult:
        """Measure one item alone, then each micro-batch, for ``seconds`` each."""
        inputs = items(model, _DISTINCT)
        latency_ms = pace.latency_ms(partial(self._run, [some(inputs, 1)]), seconds)
        rates = {
            batch: pace.items_per_s(
                partial(self._run, [some(inputs, batch)]), batch, self._in_flight, seconds
            )
            for batch in batches
        }
        return FeedResult(latency_ms, rates, self._stage_ms())

    def close(self) -> None:
        """End the shards."""
        if self._sharded is not None:
            self._sharded.close()

    def _keep(self, counters: Sequence[ShardCounters]) -> None:
        self._counters = counters

    def _stage_ms(self) -> tuple[float, ...]:
        if self._sharded is None:
            return ()
        time.sleep(2.5 * HEARTBEAT_S)  # the shards report their counters once a second
        first_ranks = self._counters[:: self._sharded.layout.tensor]
        return tuple(rank.compute_s / rank.micro_batches * 1e3 for rank in first_ranks)


def _lost(reason: str) -> None:
    print(f"a shard is lost: {reason}", file=sys.stderr, flush=True)

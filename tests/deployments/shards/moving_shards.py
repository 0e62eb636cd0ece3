"""Script that moves the shards of a replica under load: ``STORE NAME LAYOUT STAGE``.

Without Serve and on one node: an actor in a placement group holds the sharded program, and the
members of one stage appear to be on a draining node. Prints the results as JSON.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.util import placement_group, placement_group_table
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from cluster.artifact.local import LocalStore
from cluster.artifact.served import bind
from cluster.config.serving import ModelArgs
from cluster.parallel.plan import bundles
from cluster.runtime.shard import ShardCounters
from deployments.ray import nodes
from deployments.shards.members import Member
from deployments.shards.program import ShardedProgram

LATEST_S = 60
DRAINING = "of a node that drains"


class Replica:
    """Replica under load from one thread per micro-batch in flight."""

    def __init__(self, store: str, name: str, key: str) -> None:
        nodes.draining = lambda: frozenset({DRAINING})
        args = ModelArgs(
            name="moving", artifact=name, store=store, parallel={}, batching={"max_batch_size": 2}
        )
        model = bind(args)
        self.counters: list[list[ShardCounters]] = []
        self.lost: list[str] = []
        layout = model.manifest.layout(key)
        self.program = ShardedProgram.start(
            model,
            layout,
            lambda counters: self.counters.append(list(counters)),
            self.lost.append,
        )
        (spec,) = model.manifest.inputs
        # The values are also valid indices.
        values = np.random.default_rng(0).integers(1, 9, (1, *spec.item_shape))
        self.array = values.astype(spec.dtype)
        self.expected = self.program.run([self.array])[0][0]
        self.slowest_s = 0.0
        self.wrong: list[str] = []
        self.answered = 0
        self.ended = threading.Event()
        self.clients = [threading.Thread(target=self._ask) for _ in range(self.program.lanes)]
        for client in self.clients:
            client.start()

    def _ask(self) -> None:
        while not self.ended.is_set():
            started = time.monotonic()
            try:
                (output,), _ = self.program.run([self.array])
                if not np.array_equal(output, self.expected):
                    self.wrong.append("another answer")
                self.answered += 1
            except Exception as error:  # noqa: BLE001 - the test looks at it
                self.wrong.append(repr(error))
            self.slowest_s = max(self.slowest_s, time.monotonic() - started)
            time.sleep(0.005)

    def move(self, stage: int) -> dict[str, Any]:
        """Wait for a move of a stage, and for the move back; return the results."""
        before, (home,) = self._actors(), self._groups(stage)
        for member in self._of(stage):
            object.__setattr__(member, "node_id", DRAINING)
        self._wait(lambda: home not in self._groups(stage), "nothing has moved")
        away = self._actors()
        self._wait(lambda: self._groups(stage) == {home}, "nothing has moved back")
        back = self._actors()
        answered = self.answered
        self._wait(lambda: self.answered > answered + 20, "nothing is answered")
        self.ended.set()
        for client in self.clients:
            client.join()
        self._wait(
            lambda: min(shard.micro_batches for shard in self.counters[-1]) >= self.answered,
            "no counters are reported",
        )
        counted = [[shard.micro_batches for shard in counters] for counters in self.counters]
        stages = [member.shard[0] for member in self.program._pipeline.members]
        self.program.close()
        return {
            "wrong": self.wrong,
            "answered": self.answered,
            "lost": self.lost,
            "slowest_s": self.slowest_s,
            "stages": stages,
            "actors": [before, away, back],
            "counted": counted,
        }

    def _actors(self) -> list[str]:
        return [member.actor._actor_id.hex() for member in self.program._pipeline.members]

    def _groups(self, stage: int) -> set[str]:
        return {member.group.id.hex() for member in self._of(stage)}

    def _of(self, stage: int) -> list[Member]:
        return [member for member in self.program._pipeline.members if member.shard[0] == stage]

    def _wait(self, ready: Callable[[], bool], otherwise: str) -> None:
        deadline = time.monotonic() + LATEST_S
        while not ready():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{otherwise}; {self.wrong[:3]}, lost: {self.lost}")
            time.sleep(0.05)


def main(store: str, name: str, key: str, stage: int) -> None:
    ray.init(address="auto", log_to_driver=False)
    layout = LocalStore(Path(store)).open(name).manifest.layout(key)
    group = placement_group(list(bundles(layout.target, len(layout.shards), 1)), "PACK")
    here = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=0)
    replica = (
        ray.remote(Replica)
        .options(
            name="SERVE_REPLICA::moving#model-moving#12345678",
            num_cpus=0,
            scheduling_strategy=here,
            max_concurrency=2,
        )
        .remote(store, name, key)
    )
    results = ray.get(replica.move.remote(stage), timeout=3 * LATEST_S)
    groups = placement_group_table().values()
    results["groups"] = [g["name"] for g in groups if g["name"] and g["state"] != "REMOVED"]
    print(json.dumps(results))


if __name__ == "__main__":
    main(*sys.argv[1:4], int(sys.argv[4]))

"""``headrace inspect --replicas``: which shard of which replica sits where."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, astuple, dataclass
from typing import Any

from cluster.compression.report.table import table
from cluster.errors import ClusterError
from deployments.local import LocalCluster
from deployments.names import ShardName, parse_shard_actor

_MOST = 10_000


@dataclass(frozen=True, order=True)
class ShardSeat:
    """One shard that runs."""

    shard: ShardName
    node: str
    pid: int


def run(model: str | None, as_json: bool) -> int:
    """Print every shard of the running cluster, or of one model.

    Asks the local cluster, else that of RAY_ADDRESS. ClusterError if neither answers.
    """
    seats = [seat for seat in _seats() if model in (None, seat.shard.model)]
    if as_json:
        flat = [{**asdict(s.shard), "node": s.node, "pid": s.pid} for s in seats]
        print(json.dumps(flat, indent=1))
    elif seats:
        rows = [(*map(str, astuple(seat.shard)), seat.node, str(seat.pid)) for seat in seats]
        print(table(rows, ("model", "replica", "stage", "tp_rank", "node", "process")))
    else:
        print(f"no shard runs{f' for model {model}' if model else ''}: nothing served is cut")
    return 0


def _seats() -> list[ShardSeat]:
    running = LocalCluster.running()
    if running is not None:
        os.environ.update(running.environment())
    elif "RAY_ADDRESS" not in os.environ:
        raise ClusterError(
            "no local cluster is running, and RAY_ADDRESS names no other; `headrace up` starts one"
        )
    # Ray takes seconds to import, and only this command asks it.
    from ray.util.state import list_actors
    from ray.util.state.exception import RayStateApiException

    try:
        actors: list[Any] = list_actors(
            filters=[("class_name", "=", "ShardActor"), ("state", "=", "ALIVE")],
            limit=_MOST,
            address=os.environ.get("RAY_API_SERVER_ADDRESS"),
        )
    except (RayStateApiException, ConnectionError, RuntimeError) as error:
        raise ClusterError(f"the cluster cannot be asked for its actors: {error}") from error
    named = [(parse_shard_actor(actor.name or ""), actor) for actor in actors]
    return sorted(
        ShardSeat(name, str(actor.node_id)[:12], int(actor.pid))
        for name, actor in named
        if name is not None
    )

"""``headrace inspect --replicas``: which shard of which replica sits where."""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, dataclass
from typing import Any

from cluster.compression.report.table import table
from cluster.errors import ClusterError
from deployments.catalog import MODEL_DEPLOYMENT_PREFIX
from deployments.local import LocalCluster

_MOST = 10_000
_NAME = re.compile(
    rf"#{MODEL_DEPLOYMENT_PREFIX}(?P<model>[^#]+)#(?P<replica>[^#]+)"
    r"#stage-(?P<stage>\d+)\.rank-(?P<rank>\d+)$"
)


@dataclass(frozen=True, order=True)
class ShardSeat:
    """One shard that runs."""

    model: str
    replica: str
    stage: int
    tp_rank: int
    node: str
    pid: int


def run(model: str | None, as_json: bool) -> int:
    """Print every shard of the running cluster, or of one model.

    Asks the local cluster, else that of RAY_ADDRESS. ClusterError if neither answers.
    """
    seats = [seat for seat in _seats() if model in (None, seat.model)]
    if as_json:
        print(json.dumps([asdict(seat) for seat in seats], indent=1))
    elif seats:
        rows = [
            (s.model, s.replica, str(s.stage), str(s.tp_rank), s.node, str(s.pid)) for s in seats
        ]
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
    found = []
    for actor in actors:
        if (match := _NAME.search(actor.name or "")) is not None:
            found.append(
                ShardSeat(
                    match["model"], match["replica"], int(match["stage"]), int(match["rank"]),
                    str(actor.node_id)[:12], int(actor.pid),
                )
            )  # fmt: skip
    return sorted(found)

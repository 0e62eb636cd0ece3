"""``headrace inspect --replicas``: served artifacts, shards, and replicas without room.

Serve's details → models → the artifact that each was bound to, its store, and whether the name has
                           moved on there
Ray's state API ─┬→ shard actors that run        → a row each
                 └→ placement groups that wait   → which bundle lacks what
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass
from typing import Any

from cluster.errors import ClusterError
from cluster.text_table import table
from deployments.cli.served import dashboard, served_artifacts
from deployments.ray.names import ShardName, parse_replica, parse_shard_actor
from deployments.shards.vacancy import Allocation, ClusterNode, pending_reason

_MOST = 10_000
_UNPLACED = ("PENDING", "RESCHEDULING")


@dataclass(frozen=True, order=True)
class ShardSeat:
    """A running shard."""

    shard: ShardName
    node: str
    pid: int


@dataclass(frozen=True, order=True)
class WaitingReplica:
    """A replica whose bundles have no room."""

    model: str
    replica: str
    lacks: str


def show(model: str | None, as_json: bool) -> int:
    """Print the models of the running cluster, or one, with their shards and waiting replicas.

    Of the local cluster, else of RAY_ADDRESS's. ClusterError if neither answers.
    """
    served = [row for row in served_artifacts(dashboard()) if model in (None, row.model)]
    seats = [seat for seat in _seats() if model in (None, seat.shard.model)]
    waiting = [replica for replica in _waiting() if model in (None, replica.model)]
    if as_json:
        flat = [{**asdict(s.shard), "node": s.node, "pid": s.pid} for s in seats]
        facts = {
            "models": [asdict(row) for row in served],
            "shards": flat,
            "waiting": [asdict(replica) for replica in waiting],
        }
        print(json.dumps(facts, indent=1))
        return 0
    if served:
        lines = [(row.model, row.artifact, row.id[:12], row.store, row.verdict) for row in served]
        print(table(lines, ("model", "artifact", "id", "store", "up to date")))
    if seats:
        rows = [(*map(str, astuple(seat.shard)), seat.node, str(seat.pid)) for seat in seats]
        print(table(rows, ("model", "replica", "stage", "tp_rank", "node", "process")))
    for replica in waiting:
        print(f"{replica.model}, replica {replica.replica}, waits: {replica.lacks}")
    if not seats and not waiting:
        print(f"{'' if model is None else f'model {model}: '}no shards, no waiting replicas")
    return 0


def _seats() -> list[ShardSeat]:
    actors = _listed("actors", [("class_name", "=", "ShardActor"), ("state", "=", "ALIVE")])
    named = [(parse_shard_actor(actor.name or ""), actor) for actor in actors]
    return sorted(
        ShardSeat(name, str(actor.node_id)[:12], int(actor.pid))
        for name, actor in named
        if name is not None
    )


def _waiting() -> list[WaitingReplica]:
    groups = _listed("placement_groups")
    named = [(parse_replica(group.name or ""), group) for group in groups]
    pending = [(name, group) for name, group in named if name and group.state in _UNPLACED]
    if not pending:
        return []
    nodes = [
        ClusterNode(node.node_id, node.node_ip, node.resources_total)
        for node in _listed("nodes", [("state", "=", "ALIVE")])
    ]
    reserved = [
        Allocation(bundle["node_id"], bundle["unit_resources"])
        for group in groups
        if group.state == "CREATED"
        for bundle in group.bundles
    ]
    reserved += [
        Allocation(actor.node_id, actor.required_resources or {})
        for actor in _listed("actors", [("state", "=", "ALIVE")])
        if actor.placement_group_id is None
    ]
    return sorted(
        WaitingReplica(
            *name,
            pending_reason([bundle["unit_resources"] for bundle in group.bundles], nodes, reserved),
        )
        for name, group in pending
    )


def _listed(kind: str, filters: Sequence[tuple[str, str, str]] = ()) -> list[Any]:
    """Return all rows of Ray's state API; ClusterError if it does not answer."""
    # Ray takes seconds to import, and only this command asks it.
    from ray.util import state
    from ray.util.state.exception import RayStateApiException

    try:
        rows: list[Any] = getattr(state, f"list_{kind}")(
            filters=list(filters),
            limit=_MOST,
            detail=True,
            address=os.environ.get("RAY_API_SERVER_ADDRESS"),
        )
    except (RayStateApiException, ConnectionError, RuntimeError) as error:
        raise ClusterError(f"the cluster did not list its {kind}: {error}") from error
    return rows

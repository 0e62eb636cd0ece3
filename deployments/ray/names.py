"""What Serve's deployments and Ray's actors are called, so that others find them again."""

from __future__ import annotations

import re
from dataclasses import dataclass

MODEL_DEPLOYMENT_PREFIX = "model-"
"""A model's deployment is called so, then as the model."""

ROUTER_DEPLOYMENT = "router"
CATALOG_DEPLOYMENT = "catalog"

ARTIFACT = "artifact"
"""Key of a model deployment's ``user_config``: ``NAME@ID`` of the artifact that it serves. Serve
shows it in its details; replicas do not follow it."""

ARGS = "args"
"""Key beside it: the model's ``ModelArgs``. Serve's details have no others of an application that
``serve.run`` has deployed."""

_VERSION_LENGTH = 12

_REPLICA = rf"#{MODEL_DEPLOYMENT_PREFIX}(?P<model>[^#]+)#(?P<replica>[^#]+)"
_SHARD = re.compile(_REPLICA + r"#stage-(?P<stage>\d+)\.rank-(?P<rank>\d+)(?:\.move-\d+)?$")
_MOVE = r"(?:#move-\d+)?"
_MOVED = "HEADRACE_MOVED::"


def version_of(artifact_id: str) -> str:
    """The version that a model of this artifact has for its clients."""
    return artifact_id[:_VERSION_LENGTH]


@dataclass(frozen=True, order=True)
class ShardName:
    """Which shard of which replica of which model."""

    model: str
    replica: str
    stage: int
    tp_rank: int


def shard_actor(replica_actor: str, stage: int, tp_rank: int, move: int = 0) -> str:
    """The name of a shard's actor; ``replica_actor``: that of its replica's, as Serve gives it;
    ``move``: the number of the move that brought it where it runs, 0 for none."""
    moved = f".move-{move}" if move else ""
    return f"{replica_actor}#stage-{stage}.rank-{tp_rank}{moved}"


def moved_shards(replica_actor: str, move: int) -> str:
    """The name of the placement group of shards that have moved away from their replica's.

    It does not begin as a replica's: such groups Serve removes where there is no actor of the name.
    """
    return f"{_MOVED}{replica_actor}#move-{move}"


def parse_shard_actor(name: str) -> ShardName | None:
    """The inverse of :func:`shard_actor`; None for any other actor."""
    match = _SHARD.search(name)
    if match is None:
        return None
    return ShardName(match["model"], match["replica"], int(match["stage"]), int(match["rank"]))


def parse_replica(name: str) -> tuple[str, str] | None:
    """Model and replica, from the name of a model's replica actor or a placement group of it."""
    match = re.search(_REPLICA + _MOVE + "$", name)
    return None if match is None else (match["model"], match["replica"])

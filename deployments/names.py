"""What Serve's deployments and Ray's actors are called, so that others find them again."""

from __future__ import annotations

import re
from dataclasses import dataclass

MODEL_DEPLOYMENT_PREFIX = "model-"
"""A model's deployment is called so, then as the model."""

ROUTER_DEPLOYMENT = "router"

_VERSION_LENGTH = 12

_REPLICA = rf"#{MODEL_DEPLOYMENT_PREFIX}(?P<model>[^#]+)#(?P<replica>[^#]+)"
_SHARD = re.compile(_REPLICA + r"#stage-(?P<stage>\d+)\.rank-(?P<rank>\d+)$")


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


def shard_actor(replica_actor: str, stage: int, tp_rank: int) -> str:
    """The name of a shard's actor; ``replica_actor``: that of its replica's, as Serve gives it."""
    return f"{replica_actor}#stage-{stage}.rank-{tp_rank}"


def parse_shard_actor(name: str) -> ShardName | None:
    """The inverse of :func:`shard_actor`; None for any other actor."""
    match = _SHARD.search(name)
    if match is None:
        return None
    return ShardName(match["model"], match["replica"], int(match["stage"]), int(match["rank"]))


def parse_replica(name: str) -> tuple[str, str] | None:
    """Model and replica, from what Serve calls a model's replica actor and its placement group."""
    match = re.search(_REPLICA + "$", name)
    return None if match is None else (match["model"], match["replica"])

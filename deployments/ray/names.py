"""Names of Serve's deployments, Ray's actors and placement groups, and their inverse."""

from __future__ import annotations

import re
from dataclasses import dataclass

MODELS_PATH = "/v2/models/"
"""Path of a model or route, followed by its name; a model's route prefix."""

MODEL_DEPLOYMENT_PREFIX = "model-"
"""Prefix of a model's deployment, before the model's name."""

ROUTER_DEPLOYMENT = "router"
CATALOG_DEPLOYMENT = "catalog"

ARTIFACT = "artifact"
"""Key of a model deployment's ``user_config``: ``NAME@ID`` of the artifact that it serves.

Serve shows it in its details; replicas ignore it."""

STORE = "store"
"""Key of the same ``user_config``: directory or URI of the store that the artifact was found in."""

ARGS = "args"
"""Key of the same ``user_config``: the model's ``ModelArgs``.

Serve's details have no other arguments of an application that ``serve.run`` has deployed."""

_VERSION_LENGTH = 12

_REPLICA = rf"#{MODEL_DEPLOYMENT_PREFIX}(?P<model>[^#]+)#(?P<replica>[^#]+)"
_SHARD = re.compile(_REPLICA + r"#stage-(?P<stage>\d+)\.rank-(?P<rank>\d+)(?:\.move-\d+)?$")
_MOVE = r"(?:#move-\d+)?"
_MOVED = "HEADRACE_MOVED::"


def version_of(artifact_id: str) -> str:
    """Return the version that clients see of a model with this artifact."""
    return artifact_id[:_VERSION_LENGTH]


@dataclass(frozen=True, order=True)
class ShardName:
    """Identity of a shard: its model, replica, stage and tensor rank."""

    model: str
    replica: str
    stage: int
    tp_rank: int


def shard_actor(replica_actor: str, stage: int, tp_rank: int, move: int = 0) -> str:
    """Return the name of a shard's actor.

    ``replica_actor``: Serve's name of the replica's actor. ``move``: number of its last move; 0 if
    it has not moved.
    """
    moved = f".move-{move}" if move else ""
    return f"{replica_actor}#stage-{stage}.rank-{tp_rank}{moved}"


def moved_shards(replica_actor: str, move: int) -> str:
    """Return the name of the temporary placement group of moved shards.

    Its prefix differs from a replica's: Serve removes groups with that prefix if no actor has the
    group's name.
    """
    return f"{_MOVED}{replica_actor}#move-{move}"


def parse_shard_actor(name: str) -> ShardName | None:
    """Parse the name of a shard's actor; return None for any other actor."""
    match = _SHARD.search(name)
    if match is None:
        return None
    return ShardName(match["model"], match["replica"], int(match["stage"]), int(match["rank"]))


def parse_replica(name: str) -> tuple[str, str] | None:
    """Return model and replica from the name of a replica's actor or of its placement group."""
    match = re.search(_REPLICA + _MOVE + "$", name)
    return None if match is None else (match["model"], match["replica"])

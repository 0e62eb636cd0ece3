"""Orphans after a fault: processes, actors, placement groups, shards outside their group.

Serve: its replicas ────────────┐
GCS: actors, placement groups ──┼→ left_behind → a sentence for each orphan
kernel: processes ──────────────┘
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import psutil

from cluster.errors import ClusterError
from deployments.ray.names import parse_replica, parse_shard_actor
from support.wait import WITHIN_S, until

_OF_ACTORS = r"ray::(ServeReplica|ShardActor|HAProxyManager|ServeController)\b"


@dataclass(frozen=True)
class Process:
    """Process of a cluster; ``pid`` and ``parent`` in its node's namespace."""

    node: str
    pid: int
    parent: int
    command: str


def read_process(pid: int, node: str) -> Process | None:
    """Return the process with that id here; None if it has ended."""
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            if process.status() == psutil.STATUS_ZOMBIE:
                return None
            parent, command = process.ppid(), " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return None
    # The last argument also ends with a space: patterns match whole arguments.
    return Process(node, pid=_inner(pid), parent=_inner(parent), command=f"{command} ")


def _inner(pid: int) -> int:
    """Return a process's id in its innermost namespace, which psutil does not report."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("NSpid:"):
                return int(line.split()[-1])
    return 0  # it has ended, or is outside


def left_behind(
    applications: dict[str, dict[str, Any]],
    actors: Iterable[dict[str, Any]],
    groups: Iterable[dict[str, Any]],
    processes: Iterable[Process],
) -> list[str]:
    """Return a sentence for each orphaned process, actor and placement group.

    Orphans of an unfinished move of shards count too: a later move would see them twice.
    ``applications``: Serve's details. ``actors``: rows of Ray's state API, each with a ``node``,
    as in ``processes``.
    """
    alive = [actor for actor in actors if actor["state"] == "ALIVE"]
    homes = {(actor["node"], actor["pid"]): actor["class_name"] for actor in alive}
    served = [
        replica
        for details in applications.values()
        for deployment in details["deployments"].values()
        for replica in deployment["replicas"]
    ]
    replicas = {replica["replica_id"] for replica in served}
    # While Serve rebuilds an application, or after it failed to, its running replicas are unlisted.
    unnamed = {name for name, details in applications.items() if not details["deployments"]}
    judged = [actor for actor in alive if _application(actor) not in unnamed]
    held = [group for group in groups if _application(group) not in unnamed]
    return [
        *_orphaned_processes(processes, homes),
        *_forgotten_actors(judged, {replica.get("actor_id") for replica in served}, replicas),
        *_held_room(held, replicas, {actor["placement_group_id"] for actor in alive}),
    ]


def _application(row: dict[str, Any]) -> str | None:
    """Return the application in the name of an actor or group; None if it is no replica's."""
    match = re.search(r"SERVE_REPLICA::([^#]+)#", row["name"] or "")
    return None if match is None else match[1]


def _orphaned_processes(
    processes: Iterable[Process], homes: dict[tuple[str, int], str]
) -> Iterator[str]:
    for process in processes:
        at = f"process {process.pid} on {process.node}"
        if actor := re.match(_OF_ACTORS, process.command):
            if not homes.get((process.node, process.pid), "").startswith(actor[1]):
                yield f"{at}, {process.command.strip()!r}: no living actor"
        elif "/haproxy " in process.command and " -db " in process.command:
            parent = homes.get((process.node, process.parent))
            if parent != "HAProxyManager":
                yield f"{at}: an HAProxy whose manager is gone"


def _forgotten_actors(
    alive: Iterable[dict[str, Any]], actor_ids: set[str], replicas: set[str]
) -> Iterator[str]:
    seen: set[object] = set()
    for actor in alive:
        shard = parse_shard_actor(actor["name"] or "")
        if actor["class_name"].startswith("ServeReplica:") and actor["actor_id"] not in actor_ids:
            yield f"actor {actor['name']}: a replica that Serve does not know"
        elif shard is not None and shard.replica not in replicas:
            yield f"actor {actor['name']}: a shard of a replica that is gone"
        elif shard in seen:
            yield f"actor {actor['name']}: another one is the same shard"
        seen.add(shard or actor["name"])


def _held_room(
    groups: Iterable[dict[str, Any]], replicas: set[str], used: set[str]
) -> Iterator[str]:
    for group in groups:
        named = parse_replica(group["name"] or "")
        if group["state"] == "REMOVED" or named is None:
            continue
        if named[1] not in replicas:
            yield f"placement group {group['name']}: of a replica that is gone"
        elif group["state"] == "CREATED" and group["placement_group_id"] not in used:
            yield f"placement group {group['name']}: nothing of its replica runs in it"
        elif "#move-" in group["name"]:
            yield f"placement group {group['name']}: a move of its shards is not over"


def wait_for_nothing_left(
    look: Callable[[], list[str]], *, within_s: float = WITHIN_S, poll_s: float = 0.5
) -> None:
    """Wait until ``look`` returns nothing; AssertionError with its last findings."""
    remains: list[str] = ["not looked at yet"]

    def nothing() -> bool:
        nonlocal remains
        try:
            remains = look()
        except (OSError, HTTPException, ClusterError, AssertionError, LookupError) as error:
            remains = [repr(error)]  # a process without an answer may still be coming back
        return not remains

    until(
        nothing,
        lambda: "left behind:\n" + "\n".join(remains),
        within_s=within_s,
        poll_s=poll_s,
    )

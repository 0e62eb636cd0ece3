"""One attempt to drain this node: ``python -m deployments.drain.attempt SECONDS_LEFT``.

    connect to the head → ask it to drain this node → wait until no replica and no shard is left
        → check that no deployment lacks replicas

The exit status is :data:`DONE`, or :data:`FAILED` if another attempt would fail, too. With any
other status the head did not answer.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # Ray takes a second to import, and manifests are checked without it
    from ray.util.state.common import ActorState

DONE = 0
AWAY = 3
"""Exit status: the head did not answer."""

FAILED = 4
"""Exit status: a retry would not help. Not 1, which Python and Ray use after the head is lost."""

_CONNECT_S = 20.0  # an available head answers faster, also on a busy machine
_SETTLE_S = 10.0  # delay until Serve reports the end of a replica
_POLL_S = 0.5
_REPLICA = "ServeReplica:"
_SHARD = "ShardActor"

Deployments = Counter[tuple[str, str]]
"""Number of replicas by (application, deployment)."""


def main(timeout_s: float) -> int:
    """Drain this node within ``timeout_s`` seconds; return the exit status."""
    import ray
    from ray.exceptions import AuthenticationError

    deadline = time.monotonic() + timeout_s
    connect_timer = threading.Timer(_CONNECT_S, _end_without_head)
    connect_timer.daemon = True
    connect_timer.start()
    try:  # the head's address: RAY_ADDRESS, else that of the Ray on this node
        ray.init(address="auto", log_to_driver=False, logging_level=logging.ERROR)
    except AuthenticationError:
        return _fail(
            "the node is not drained: the head requires its token; set RAY_AUTH_MODE=token "
            "(`headrace environment` does) and put the token into ~/.ray/auth_token or the file of "
            "RAY_AUTH_TOKEN_PATH"
        )
    except ConnectionError as error:
        return _fail(f"the node is not drained: Ray does not run here ({error})")
    connect_timer.cancel()
    node = ray.get_runtime_context().get_node_id()
    if (refusal := _request_drain(node, deadline)) is not None:
        return _fail(f"node {node} is not drained: {refusal}")

    started = time.monotonic()
    while remaining := _remaining(node):
        if time.monotonic() > deadline:
            return _fail(f"still on node {node} after {timeout_s:.0f} s: {remaining}")
        time.sleep(_POLL_S)
    print(f"node {node} has no replica and no shard left after {time.monotonic() - started:.1f} s")
    if missing := _missing(min(deadline, time.monotonic() + _SETTLE_S)):
        return _fail(
            f"missing replicas, without room on other nodes or failing to start: "
            f"{_described(missing)}; see `serve status` for the reason"
        )
    return DONE


def _end_without_head() -> None:
    print(f"the head has not answered within {_CONNECT_S:.0f} s", file=sys.stderr, flush=True)
    os._exit(AWAY)  # Ray waits forever, in native code


def _fail(reason: str) -> int:
    print(reason, file=sys.stderr)
    return FAILED


def _request_drain(node: str, deadline: float) -> str | None:
    """Announce the node's stop to the head; return the reason if the head refuses."""
    import ray

    command = [sys.executable, "-P", "-m", "ray.scripts.scripts", "drain-node"]
    command += [f"--address={ray.get_runtime_context().gcs_address}", f"--node-id={node}"]
    # Of the two reasons, the head never refuses this one because of running work.
    command += ["--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=the node is to stop"]
    command += [f"--deadline-remaining-seconds={int(deadline - time.monotonic())}"]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
    except subprocess.TimeoutExpired:
        print("the head did not accept the drain within 60 s", file=sys.stderr)
        sys.exit(AWAY)
    if done.returncode == 0:
        return None
    output = (done.stderr.strip() or done.stdout.strip())[-300:]
    if "not accepted" in output:
        return output
    print(f"the drain could not be requested: {output}", file=sys.stderr)
    sys.exit(AWAY)


def _remaining(node: str) -> str:
    """Return the replicas and shards on a node, for messages; empty if there are none.

    A replica's class name is ``ServeReplica:APP:DEPLOYMENT``. Shards of replicas on other nodes
    count, too.
    """
    actors = _actors(node)
    names = [actor.class_name or "" for actor in actors]
    deployments = [name.removeprefix(_REPLICA) for name in names if name.startswith(_REPLICA)]
    replicas = Counter(
        (app, deployment) for app, _, deployment in (name.rpartition(":") for name in deployments)
    )
    shards = sorted(str(actor.name) for actor in actors if actor.class_name == _SHARD)
    return ", ".join([*filter(None, [_described(replicas)]), *(f"shard {name}" for name in shards)])


def _actors(node: str) -> list[ActorState]:
    """Return the live actors of a node."""
    from ray.util.state import list_actors
    from ray.util.state.exception import RayStateApiException

    try:
        return list_actors(filters=[("node_id", "=", node), ("state", "=", "ALIVE")], limit=10_000)
    except RayStateApiException as error:
        print(f"the head does not list this node's actors: {error}", file=sys.stderr)
        sys.exit(AWAY)


def _missing(deadline: float) -> Deployments:
    """Return the number of missing replicas of each deployment, at the deadline if there are any.

    All deployments are checked: an earlier attempt may have moved replicas from this node.
    """
    from deployments.ray.controller import serve_details

    missing: Deployments = Counter()
    while (details := serve_details()) is not None:  # None: Serve does not run
        missing.clear()
        for name, application in details["applications"].items():
            for deployment, status in application["deployments"].items():
                running = sum(row["state"] == "RUNNING" for row in status["replicas"])
                missing[name, deployment] = status["target_num_replicas"] - running
        missing = +missing
        if not missing or time.monotonic() > deadline:
            break
        time.sleep(_POLL_S)
    return missing


def _described(deployments: Deployments) -> str:
    return ", ".join(f"{count} of {app}'s {name}" for (app, name), count in deployments.items())


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1])))

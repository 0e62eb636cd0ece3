"""One attempt to drain this node: ``python -m deployments.drain.attempt SECONDS_LEFT``.

The exit status is :data:`DONE`, :data:`ENDED` where another attempt would end alike, else whatever
ended it: then the head did not answer.
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

ENDED = 4
"""Exit status; not 1, with which Python and Ray end a process that lost the head."""

_CONNECT_S = 20.0  # a head that is there answers in less, also on a busy machine
_SETTLED_S = 10.0  # how much later than a replica's end Serve may know of it
_POLL_S = 0.5
_REPLICA = "ServeReplica:"
_SHARD = "ShardActor"

Deployments = Counter[tuple[str, str]]
"""(application, deployment) → how many of its replicas are here."""


def main(left_s: float) -> int:
    """Drain this node within ``left_s`` seconds; the exit status."""
    import ray
    from ray.exceptions import AuthenticationError

    deadline = time.monotonic() + left_s
    given_up = threading.Timer(_CONNECT_S, _give_up)
    given_up.daemon = True
    given_up.start()
    try:  # the head's address: RAY_ADDRESS, else that of the Ray that runs here
        ray.init(address="auto", log_to_driver=False, logging_level=logging.ERROR)
    except AuthenticationError:
        return _ended(
            "nothing is drained: the head wants its token: set RAY_AUTH_MODE=token (`headrace "
            "environment` does) and have the token in ~/.ray/auth_token or RAY_AUTH_TOKEN_PATH"
        )
    except ConnectionError as error:
        return _ended(f"nothing is drained: no node of Ray's runs here ({error})")
    given_up.cancel()
    node = ray.get_runtime_context().get_node_id()
    if (refusal := _ask_to_drain(node, deadline)) is not None:
        return _ended(f"node {node} is not drained: {refusal}")

    started = time.monotonic()
    while left := _left(node):
        if time.monotonic() > deadline:
            return _ended(f"still on node {node} after {left_s:.0f} s: {left}")
        time.sleep(_POLL_S)
    print(f"node {node} has no replica and no shard left after {time.monotonic() - started:.1f} s")
    if short := _short(min(deadline, time.monotonic() + _SETTLED_S)):
        return _ended(
            f"missing now, for want of room elsewhere or because new ones do not start: "
            f"{_told(short)}; `serve status` says why"
        )
    return DONE


def _give_up() -> None:
    print(f"the head has not answered within {_CONNECT_S:.0f} s", file=sys.stderr, flush=True)
    os._exit(AWAY)  # Ray waits for ever, in native code


def _ended(why: str) -> int:
    print(why, file=sys.stderr)
    return ENDED


def _ask_to_drain(node: str, deadline: float) -> str | None:
    """Tell the head that this node is going to stop; why not, if it refuses."""
    import ray

    command = [sys.executable, "-P", "-m", "ray.scripts.scripts", "drain-node"]
    command += [f"--address={ray.get_runtime_context().gcs_address}", f"--node-id={node}"]
    # Of the two reasons the one that is never refused because something runs here.
    command += ["--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=the node is to stop"]
    command += [f"--deadline-remaining-seconds={int(deadline - time.monotonic())}"]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
    except subprocess.TimeoutExpired:
        print("the head was not told within 60 s", file=sys.stderr)
        sys.exit(AWAY)
    if done.returncode == 0:
        return None
    said = (done.stderr.strip() or done.stdout.strip())[-300:]
    if "not accepted" in said:
        return said
    print(f"the head was not told: {said}", file=sys.stderr)
    sys.exit(AWAY)


def _left(node: str) -> str:
    """Which replicas live on a node, as their class names tell (``ServeReplica:APP:DEPLOYMENT``),
    and which shards, those of replicas on other nodes too; empty if none does."""
    actors = _actors(node)
    names = [each.class_name or "" for each in actors]
    found = [name.removeprefix(_REPLICA) for name in names if name.startswith(_REPLICA)]
    replicas = Counter(
        (app, deployment) for app, _, deployment in (each.rpartition(":") for each in found)
    )
    shards = sorted(str(each.name) for each in actors if each.class_name == _SHARD)
    return ", ".join([*filter(None, [_told(replicas)]), *(f"shard {name}" for name in shards)])


def _actors(node: str) -> list[ActorState]:
    """A node's living actors."""
    from ray.util.state import list_actors
    from ray.util.state.exception import RayStateApiException

    try:
        return list_actors(filters=[("node_id", "=", node), ("state", "=", "ALIVE")], limit=10_000)
    except RayStateApiException as error:
        print(f"the head does not say what runs here: {error}", file=sys.stderr)
        sys.exit(AWAY)


def _short(deadline: float) -> Deployments:
    """Which deployments lack replicas then, and how many. All are looked at: which of them had one
    here is not known any more where another attempt has moved it."""
    from deployments.ray.controller import serve_details

    short: Deployments = Counter()
    while (details := serve_details()) is not None:  # None: Serve does not run
        short.clear()
        for name, application in details["applications"].items():
            for deployment, status in application["deployments"].items():
                running = sum(row["state"] == "RUNNING" for row in status["replicas"])
                short[name, deployment] = status["target_num_replicas"] - running
        short = +short
        if not short or time.monotonic() > deadline:
            break
        time.sleep(_POLL_S)
    return short


def _told(deployments: Deployments) -> str:
    return ", ".join(f"{count} of {app}'s {name}" for (app, name), count in deployments.items())


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1])))

"""Take this node out of service before it stops: ``python -m deployments.drain`` on it.

    this node drains → Serve starts its replicas elsewhere, then sends nothing more to those here
    → no replica is left here → exit 0, and the node may stop without a request lost

A pod's ``preStop`` runs it (``k8s/base``), so that Kubernetes may evict a node, or an operator
stop one. It returns after :data:`DEADLINE_S` at the latest: then exit 1, and what is still here is
lost with the node. A replica that finds no room elsewhere stays until then. Shards here of a
replica whose own process is on another node are not moved, since Serve knows only of that process:
they are named, and with the node their replica is lost and made anew.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time

DEADLINE_S = 30 + 60
"""Serve's drain, in which HAProxies elsewhere learn of it, then the longest request; in seconds."""

_POLL_S = 0.5


def main() -> int:
    """Drain this node; the exit status."""
    import ray  # takes a second, and manifests are checked with the deadline alone

    try:  # the head's address: RAY_ADDRESS, else that of the Ray that runs here
        ray.init(address="auto", log_to_driver=False, logging_level=logging.ERROR)
    except ConnectionError as error:
        print(f"nothing is drained: no node of Ray's runs here ({error})", file=sys.stderr)
        return 1
    node = ray.get_runtime_context().get_node_id()
    gcs = ray.get_runtime_context().gcs_address
    started = time.monotonic()
    refusal = _ask_to_drain(gcs, node)
    if refusal is not None:
        print(f"node {node} is not drained: {refusal}", file=sys.stderr)
        return 1
    while left := _actors(node, "ServeReplica:"):
        if time.monotonic() - started > DEADLINE_S:
            print(f"still on node {node} after {DEADLINE_S} s: {', '.join(left)}", file=sys.stderr)
            return 1
        time.sleep(_POLL_S)
    print(f"node {node} has no replica left after {time.monotonic() - started:.1f} s")
    if shards := _actors(node, "ShardActor"):
        print(f"shards of replicas on other nodes end with it: {', '.join(shards)}")
    return 0


def _ask_to_drain(gcs: str, node: str) -> str | None:
    """Tell the head that this node is going to stop; why not, if it refuses."""
    command = [sys.executable, "-P", "-m", "ray.scripts.scripts", "drain-node"]
    command += [f"--address={gcs}", f"--node-id={node}"]
    # Of the two reasons the one that is never refused because something runs here.
    command += ["--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=the node is to stop"]
    command += [f"--deadline-remaining-seconds={DEADLINE_S}"]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
    except subprocess.TimeoutExpired:
        return f"the head at {gcs} did not answer within 60 s"
    return None if done.returncode == 0 else done.stderr.strip()[-300:] or done.stdout[-300:]


def _actors(node: str, class_prefix: str) -> list[str]:
    """The names of a node's living actors of such a class."""
    from ray.util.state import list_actors

    actors = list_actors(filters=[("node_id", "=", node), ("state", "=", "ALIVE")], limit=10_000)
    return [str(each.name) for each in actors if each.class_name.startswith(class_prefix)]


if __name__ == "__main__":
    sys.exit(main())

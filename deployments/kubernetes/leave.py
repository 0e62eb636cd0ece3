"""A pod's last words (its `preStop` hook): its Ray node takes no more, and what runs there moves.

    pod is to end → this → the GCS: node draining → Serve starts replicas elsewhere, then stops
                                                    those here → raylet idle → it ends by itself

Without it Ray would be told to stop at once, with the requests in flight.

    python -m deployments.kubernetes.leave        where RAY_ADDRESS names the cluster
"""

from __future__ import annotations

import logging
import sys
import time

from deployments.kubernetes.own_rules import DRAIN_S


def main() -> int:
    """Ask for the drain, and wait until the node is gone or its time is up."""
    import ray
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.core.generated import autoscaler_pb2

    ray.init("auto", log_to_driver=False, logging_level=logging.ERROR)
    context = ray.get_runtime_context()
    node, gcs = context.get_node_id(), GcsClient(address=context.gcs_address)
    ray.shutdown()  # a driver would be one more thing that runs here
    accepted, reason = gcs.drain_node(
        node,
        autoscaler_pb2.DRAIN_NODE_REASON_PREEMPTION,  # type: ignore[attr-defined]
        "its pod ends",
        time.time_ns() // 10**6 + DRAIN_S * 1000,
    )
    if not accepted:
        print(f"leave: node {node} is not drained: {reason}", file=sys.stderr)
        return 1
    print(f"leave: node {node} drains", flush=True)
    time.sleep(DRAIN_S)  # the container ends before, when Ray does
    return 0


if __name__ == "__main__":
    sys.exit(main())

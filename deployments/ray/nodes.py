"""What the head says of nodes and placement groups.

Which nodes drain no public call of Ray's tells; this is the one place that asks its client of the
GCS, as Serve's controller does.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import ray
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.core.generated.gcs_pb2 import GcsNodeInfo  # type: ignore[attr-defined]
from ray.util import placement_group_table
from ray.util.placement_group import PlacementGroup

from cluster.errors import ClusterError

_ANSWER_S = 5.0


def this_node() -> str:
    """The id of the node that this process runs on."""
    found: str = ray.get_runtime_context().get_node_id()
    return found


def draining() -> frozenset[str]:
    """The ids of the nodes that are going to stop; ``ray.exceptions.RpcError`` from no head."""
    return frozenset(_head().get_draining_nodes(timeout=_ANSWER_S))


def staying() -> frozenset[str]:
    """The ids of the nodes that live and do not drain; RpcError as above."""
    stopping = draining()  # first: one that stops meanwhile must not be missing in both answers
    nodes = _head().get_all_node_info(timeout=_ANSWER_S)
    alive = {node_id.hex() for node_id, node in nodes.items() if node.state == GcsNodeInfo.ALIVE}
    return frozenset(alive - stopping)


def strategy(group: PlacementGroup) -> str:
    """Return how a placement group's bundles are spread: ``PACK``, ``STRICT_SPREAD`` and others."""
    return str(_row(group)["strategy"])


def is_placed(group: PlacementGroup) -> bool:
    """Whether all bundles of a placement group have a node; not so while one looks for another."""
    return bool(_row(group)["state"] == "CREATED")


def bundle_nodes(group: PlacementGroup) -> dict[int, str]:
    """Bundle → the id of its node; of one that has none at the moment, the id of no node."""
    return {int(bundle): node for bundle, node in _row(group)["bundles_to_node_id"].items()}


def _row(group: PlacementGroup) -> dict[str, Any]:
    row: dict[str, Any] = placement_group_table(group)
    if not row:
        raise ClusterError(f"the head knows of no placement group {group.id.hex()}")
    return row


@cache
def _head() -> Any:
    return GcsClient(address=ray.get_runtime_context().gcs_address)

"""State of nodes and placement groups, from the head.

Ray has no public call for draining nodes. Only this module uses Ray's client of the GCS for them,
as Serve's controller does.
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
    """Return the id of this process's node."""
    node_id: str = ray.get_runtime_context().get_node_id()
    return node_id


def draining() -> frozenset[str]:
    """Return the ids of the draining nodes; ``ray.exceptions.RpcError`` without a head."""
    return frozenset(_head().get_draining_nodes(timeout=_ANSWER_S))


def staying() -> frozenset[str]:
    """Return the ids of the live nodes that do not drain; RpcError without a head."""
    stopping = draining()  # first, so that a node that starts to drain is in one of the two answers
    nodes = _head().get_all_node_info(timeout=_ANSWER_S)
    alive = {node_id.hex() for node_id, node in nodes.items() if node.state == GcsNodeInfo.ALIVE}
    return frozenset(alive - stopping)


def strategy(group: PlacementGroup) -> str:
    """Return a placement group's strategy, such as ``PACK`` or ``STRICT_SPREAD``."""
    return str(_row(group)["strategy"])


def is_placed(group: PlacementGroup) -> bool:
    """Whether all bundles of a placement group have a node at the moment."""
    return bool(_row(group)["state"] == "CREATED")


def bundle_nodes(group: PlacementGroup) -> dict[int, str]:
    """Return the id of each bundle's node; an unknown id if it has no node at the moment."""
    return {int(bundle): node for bundle, node in _row(group)["bundles_to_node_id"].items()}


def _row(group: PlacementGroup) -> dict[str, Any]:
    row: dict[str, Any] = placement_group_table(group)
    if not row:
        raise ClusterError(f"unknown placement group {group.id.hex()}")
    return row


@cache
def _head() -> Any:
    return GcsClient(address=ray.get_runtime_context().gcs_address)

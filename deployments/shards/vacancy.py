"""Reason that a sharded replica is pending: the bundle without room, and its missing resources.

placement groups: created → allocated on their nodes ┐
                  pending → bundles, one after the other → the first that no node has room for
actors without a group    → allocated on their nodes ┘
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Resources = Mapping[str, float]


@dataclass(frozen=True)
class Allocation:
    """Resources of a node in use by an actor or a bundle."""

    node_id: str
    resources: Resources


@dataclass(frozen=True)
class ClusterNode:
    """Node with its total resources."""

    node_id: str
    ip: str
    resources: Resources


def pending_reason(
    bundles: Sequence[Resources], nodes: Sequence[ClusterNode], allocations: Sequence[Allocation]
) -> str:
    """Return the first bundle without room, after those before it, and the nodes' free resources.

    Running tasks and the group's placement strategy are not taken into account.
    """
    free = {node.node_id: dict(node.resources) for node in nodes}
    for allocation in allocations:
        if allocation.node_id in free:
            _subtract(free[allocation.node_id], allocation.resources)
    for number, bundle in enumerate(bundles):
        home = next((resources for resources in free.values() if _fits(resources, bundle)), None)
        if home is None:
            available = "; ".join(_free(node, free[node.node_id], bundle) for node in nodes)
            needs = ", ".join(f"{amount:g} {name}" for name, amount in bundle.items())
            after = " after the others" if number else ""
            return (
                f"bundle {number} of {len(bundles)} needs {needs}; free{after}: "
                f"{available or 'no node'}"
            )
        _subtract(home, bundle)
    return "every bundle has room; it is being placed, or waits for running tasks"


def _fits(free: Resources, bundle: Resources) -> bool:
    return all(free.get(name, 0) >= amount for name, amount in bundle.items())


def _subtract(free: dict[str, float], resources: Resources) -> None:
    for name, amount in resources.items():
        free[name] = free.get(name, 0) - amount


def _free(node: ClusterNode, free: Resources, bundle: Resources) -> str:
    parts = [
        f"{max(0.0, free.get(name, 0)):g} of {node.resources.get(name, 0):g} {name}"
        for name in bundle
    ]
    return f"{node.ip} {', '.join(parts)}"

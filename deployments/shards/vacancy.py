"""Why a replica that wants shards has no place yet: which of its bundles lacks what.

placement groups: created → taken from their nodes   ┐
                  pending → bundles, one after the other → the first that no node has room for
actors of no group        → taken from their nodes   ┘
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Resources = Mapping[str, float]


@dataclass(frozen=True)
class Taken:
    """What something that runs has of a node."""

    node_id: str
    resources: Resources


@dataclass(frozen=True)
class Node:
    """A node and all that it has."""

    node_id: str
    ip: str
    resources: Resources


def lacking(bundles: Sequence[Resources], nodes: Sequence[Node], taken: Sequence[Taken]) -> str:
    """Which bundle finds no node with room, behind the ones before it, and what nodes have left.

    Tasks that run are not counted, nor is the group's placement strategy.
    """
    left = {node.node_id: dict(node.resources) for node in nodes}
    for each in taken:
        if each.node_id in left:
            _take(left[each.node_id], each.resources)
    for number, bundle in enumerate(bundles):
        home = next((own for own in left.values() if _fits(own, bundle)), None)
        if home is None:
            has = "; ".join(_free(node, left[node.node_id], bundle) for node in nodes) or "no node"
            wanted = ", ".join(f"{amount:g} {name}" for name, amount in bundle.items())
            behind = " behind the others" if number else ""
            return f"bundle {number} of {len(bundles)} needs {wanted}; free{behind}: {has}"
        _take(home, bundle)
    return "every bundle has room; it is being placed, or waits for tasks that run"


def _fits(free: Resources, bundle: Resources) -> bool:
    return all(free.get(name, 0) >= amount for name, amount in bundle.items())


def _take(free: dict[str, float], wanted: Resources) -> None:
    for name, amount in wanted.items():
        free[name] = free.get(name, 0) - amount


def _free(node: Node, free: Resources, bundle: Resources) -> str:
    parts = [
        f"{max(0.0, free.get(name, 0)):g} of {node.resources.get(name, 0):g} {name}"
        for name in bundle
    ]
    return f"{node.ip} {', '.join(parts)}"

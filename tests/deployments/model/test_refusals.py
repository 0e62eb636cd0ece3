"""Nodes take over each other's refused requests, for an hour."""

from __future__ import annotations

import pytest

from cluster.runtime.fatal_requests import KEPT_S
from deployments.model import refusals
from deployments.model.refusals import Exchange

NOW = 1_790_000_000.0


class Node:
    """Requests of a node, with the verdicts that a test gives it."""

    def __init__(self, *verdicts: int) -> None:
        self.verdicts = frozenset(verdicts)
        self.refused: frozenset[int] = frozenset()

    def judge(self) -> frozenset[int]:
        return self.verdicts


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> dict[str, set[str]]:
    """Names in the GCS, by group; the calls themselves are tested in tests/deployments/ray."""
    groups: dict[str, set[str]] = {}
    calls = {
        "share_name": lambda group, name: groups.setdefault(group, set()).add(name),
        "shared_names": lambda group: sorted(groups.get(group, ())),
        "forget_name": lambda group, name: groups[group].discard(name),
    }
    for name, call in calls.items():
        monkeypatch.setattr(refusals, name, call)
    monkeypatch.setattr(Exchange, "_run", lambda self: None)  # the test calls exchange()
    return groups


def test_other_node_refuses_after_exchange(shared: dict[str, set[str]]) -> None:
    first, second = Node(7, 2**64 - 1), Node()
    Exchange(first, "m-0").exchange(NOW)  # type: ignore[arg-type]
    Exchange(second, "m-0").exchange(NOW + 5)  # type: ignore[arg-type]
    assert first.refused == second.refused == {7, 2**64 - 1}
    other = Node()
    Exchange(other, "m-1").exchange(NOW)  # type: ignore[arg-type]
    assert other.refused == frozenset(), "another artifact"


def test_refusal_is_forgotten_after_its_time(shared: dict[str, set[str]]) -> None:
    Exchange(Node(7), "m-0").exchange(NOW)  # type: ignore[arg-type]
    node = Node()
    Exchange(node, "m-0").exchange(NOW + KEPT_S + 1)  # type: ignore[arg-type]
    assert node.refused == frozenset()
    assert shared == {"headrace-fatal:m-0": set()}

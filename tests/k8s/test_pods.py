"""Label selectors over the labels of pods, with the semantics of Kubernetes."""

from __future__ import annotations

from typing import Any

import pytest

from deployments.kubernetes.pods import selects

LABELS = {"app": "headrace", "tier": "replicas"}


@pytest.mark.parametrize(
    ("selector", "matched"),
    [
        ({}, True),
        ({"matchLabels": {"app": "headrace"}}, True),
        ({"matchLabels": {"app": "other"}}, False),
        ({"matchLabels": {"app": "headrace", "more": "x"}}, False),
        ({"matchExpressions": [{"key": "tier", "operator": "In", "values": ["replicas"]}]}, True),
        ({"matchExpressions": [{"key": "tier", "operator": "In", "values": ["head"]}]}, False),
        ({"matchExpressions": [{"key": "more", "operator": "In", "values": ["x"]}]}, False),
        ({"matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["head"]}]}, True),
        ({"matchExpressions": [{"key": "more", "operator": "NotIn", "values": ["x"]}]}, True),
        (
            {"matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["replicas"]}]},
            False,
        ),
        ({"matchExpressions": [{"key": "tier", "operator": "Exists"}]}, True),
        ({"matchExpressions": [{"key": "more", "operator": "Exists"}]}, False),
        ({"matchExpressions": [{"key": "more", "operator": "DoesNotExist"}]}, True),
        ({"matchExpressions": [{"key": "tier", "operator": "DoesNotExist"}]}, False),
        (
            {
                "matchLabels": {"app": "headrace"},
                "matchExpressions": [{"key": "more", "operator": "Exists"}],
            },
            False,
        ),
    ],
)
def test_selector_matches_labels(selector: dict[str, Any], matched: bool) -> None:
    assert selects(selector, LABELS) is matched

"""Targets that a cascade can be calibrated over."""

from __future__ import annotations

import pytest

from cluster.config.base import parse
from cluster.config.routing import RouterArgs
from cluster.errors import ConfigError
from deployments.router.thresholds import Targets


def test_ensemble_can_be_calibrated_but_not_quorum() -> None:
    routes = [
        {"name": "all", "kind": "ensemble", "targets": ["a", "b"]},
        {"name": "some", "kind": "quorum", "k": 1, "targets": ["a", "b"]},
    ]
    args = parse({"routes": routes}, RouterArgs, "args")
    targets = Targets({route.name: route for route in args.routes}, {})
    assert targets.combining("all").name == "all"
    with pytest.raises(
        ConfigError, match="some is a quorum; a cascade can be calibrated over models"
    ):
        targets.combining("some")

"""Configuration of routes, and every error in it."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.config.base import parse
from cluster.config.routing import Cascade, Ensemble, RouterArgs
from cluster.errors import ConfigError


def route(**fields: Any) -> Any:
    (parsed,) = parse({"routes": [{"name": "r", **fields}]}, RouterArgs, "args").routes
    return parsed


def test_target_is_name_or_mapping() -> None:
    parsed = route(kind="ensemble", targets=["a", {"target": "b", "weight": 2, "timeout_s": 0.05}])
    assert isinstance(parsed, Ensemble)
    assert [(t.target, t.weight, t.timeout_s) for t in parsed.targets] == [
        ("a", 1.0, None),
        ("b", 2.0, 0.05),
    ]


def test_single_threshold_applies_to_all_targets() -> None:
    parsed = route(kind="cascade", targets=["a", "b", "c"], thresholds=0.9)
    assert isinstance(parsed, Cascade)
    assert parsed.thresholds == (0.9, 0.9)
    assert route(kind="cascade", targets=["a", "b"], thresholds="calibrated").thresholds == (
        "calibrated"
    )


ENSEMBLE = {"kind": "ensemble", "targets": ["a", "b"]}
CASCADE = {"kind": "cascade", "targets": ["a", "b"]}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "ensembel", "targets": ["a", "b"]}, r"routes\[0\].kind: expected one of 'ens"),
        ({**ENSEMBLE, "targets": ["a"]}, r"routes\[0\].targets: .*at least 2"),
        (
            {**ENSEMBLE, "targets": ["a", {"target": "b", "weight": "heavy"}]},
            r"routes\[0\].targets\[1\].weight: .*number.*'heavy'",
        ),
        ({**ENSEMBLE, "targets": ["a", {"target": "b", "weight": float("nan")}]}, "weight: "),
        ({**ENSEMBLE, "targets": ["a", {"target": "b", "weight": 0}]}, "weight: .*greater than 0"),
        ({**ENSEMBLE, "targets": ["a", {"target": "b", "timeout_s": -1}]}, "timeout_s: .*greater"),
        ({**ENSEMBLE, "targets": ["a", {"target": "b", "wieght": 1}]}, "wieght: unknown field"),
        ({**ENSEMBLE, "targets": ["a", "../b"]}, r"targets\[1\]: "),
        ({**ENSEMBLE, "min_answers": 3}, "min_answers=3 is more than the 2 targets of route r"),
        ({**ENSEMBLE, "combine": "median"}, "combine: "),
        ({**ENSEMBLE, "combine": "python:m:f"}, "combine python:m:f needs outputs"),
        (
            {**ENSEMBLE, "outputs": [{"name": "o", "datatype": "FP32", "shape": [-1, 2]}]},
            "combine mean takes no outputs",
        ),
        ({"kind": "quorum", "targets": ["a", "b"], "k": 3}, "k=3 is more than the 2 targets"),
        (
            {"kind": "quorum", "targets": ["a", "b"], "k": 1, "min_answers": 2},
            "min_answers=2 is more than k=1",
        ),
        ({**CASCADE, "thresholds": 1.5}, "thresholds.*less than or equal to 1"),
        ({**CASCADE, "thresholds": -0.1}, "thresholds.*greater than or equal to 0"),
        ({**CASCADE, "thresholds": float("nan")}, "thresholds"),
        ({**CASCADE, "thresholds": [0.5, 0.6]}, "2 thresholds for 2 targets; give 1"),
        ({**CASCADE, "thresholds": "guessed"}, "thresholds"),
        ({"kind": "multi_task", "tasks": {"a b": "x", "c": "y"}}, "tasks"),
        ({"kind": "multi_task", "tasks": {"a": "x", "b": "y"}, "min_answers": 3}, "min_answers=3"),
        ({"kind": "hedge", "target": "a", "after_ms": -1}, "after_ms"),
        ({"kind": "hedge", "target": "a", "budget": 1.1}, "budget: .*less than or equal to 1"),
        ({"kind": "shadow", "target": "a", "shadow": "b", "share": 2}, "share"),
        ({"kind": "canary", "target": "a", "candidate": "b"}, "share: Field required"),
        (
            {"kind": "canary", "target": "a", "candidate": "b", "share": 0.1, "window": 10},
            "min_requests=20 is more than window=10",
        ),
        ({"kind": "scatter", "target": "a", "part_items": 0}, "part_items"),
        ({"kind": "chain", "targets": ["a"]}, "targets: .*at least 2"),
        ({**ENSEMBLE, "timeout_s": float("inf")}, "timeout_s"),
        ({**ENSEMBLE, "cache_bytes": -1}, "cache_bytes"),
    ],
)
def test_wrong_route_is_rejected_with_its_path(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        route(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"targets": ["a", {"target": "b", "weight": "heavy"}]},
            "routes[0].targets[1].weight: Input should be a valid number, unable to parse string "
            "as a number (given: 'heavy'), in 'both'",
        ),
        (
            {"kind": "cascade", "targets": ["a", "b"], "thresholds": 1.5},
            "routes[0].thresholds: Input should be less than or equal to 1 (given: 1.5), in 'both'",
        ),
        (
            {"kind": "cascade", "targets": ["a", "b"], "thresholds": "often"},
            "routes[0].thresholds: Input should be 'calibrated' (given: 'often'), in 'both'",
        ),
        (
            {"kind": "shadow", "target": "a", "shadow": "b", "share": 2},
            "routes[0].share: Input should be less than or equal to 1 (given: 2), in 'both'",
        ),
        ({"kind": "shadow", "target": "a"}, "routes[0].shadow: Field required, in 'both'"),
        (
            {"kind": "quorum", "targets": ["a", "b"], "k": 3},
            "routes[0]: k=3 is more than the 2 targets of route both; give at most 2",
        ),
    ],
)
def test_error_names_route_and_path_as_written(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse({"routes": [{"name": "both", "kind": "ensemble", **fields}]}, RouterArgs, "args")
    assert str(error.value) == f"args: {message}"


def test_route_names_are_unique_and_one_is_required() -> None:
    twice = [{"name": "r", **ENSEMBLE}, {"name": "r", **CASCADE, "thresholds": 0.5}]
    with pytest.raises(ConfigError, match="duplicate routes r"):
        parse({"routes": twice}, RouterArgs, "args")
    with pytest.raises(ConfigError, match=r"routes: .*at least 1"):
        parse({"routes": []}, RouterArgs, "args")

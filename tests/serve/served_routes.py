"""Routes of the tests' router, over `tiny` (int8), `cut` (float32, two shards) and `tight`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

NO_TIME_S = 1e-6  # no model can answer within it


def routes(threshold: float) -> list[dict[str, Any]]:
    """Return all routes; ``threshold`` lets `tiny` answer some random inputs of a cascade."""
    cascade = {"kind": "cascade", "thresholds": threshold}
    return [
        *ROUTES,
        {"name": "sure", "targets": ["tiny", "cut"], **cascade},
        {"name": "nested", "targets": ["tiny", "mean"], **cascade},
    ]


ROUTES: list[dict[str, Any]] = [
    {"name": "mean", "kind": "ensemble", "targets": ["tiny", {"target": "cut", "weight": 3}]},
    {"name": "vote", "kind": "ensemble", "targets": ["tiny", "cut", "tight"], "combine": "vote"},
    {
        "name": "joined",
        "kind": "ensemble",
        "targets": ["tiny", {"target": "cut", "weight": 2}],
        "combine": "python:served_routes:stacked",
        "outputs": [{"name": "stacked", "datatype": "FP32", "shape": [-1, 2, 10]}],
    },
    {
        "name": "patient",
        "kind": "ensemble",
        "targets": ["tiny", {"target": "cut", "timeout_s": NO_TIME_S}],
        "min_answers": 1,
    },
    {
        "name": "strict",
        "kind": "ensemble",
        "targets": ["tiny", {"target": "cut", "timeout_s": NO_TIME_S}],
    },
    {
        "name": "tasks",
        "kind": "multi_task",
        "tasks": {"fast": "tiny", "exact": "cut"},
    },
    {
        "name": "some-tasks",
        "kind": "multi_task",
        "tasks": {"fast": "tiny", "exact": {"target": "cut", "timeout_s": NO_TIME_S}},
        "min_answers": 1,
    },
    {"name": "first", "kind": "quorum", "k": 1, "targets": ["tiny", "cut"]},
    {
        "name": "unsure",
        "kind": "cascade",
        "targets": ["tiny", {"target": "cut", "timeout_s": NO_TIME_S}],
        "thresholds": 1.0,
        "min_answers": 1,
    },
    {
        "name": "must-be-sure",
        "kind": "cascade",
        "targets": ["tiny", {"target": "cut", "timeout_s": NO_TIME_S}],
        "thresholds": 1.0,
    },
    {
        "name": "either",
        "kind": "hedge",
        "target": "tiny",
        "backup": "cut",
        "after_ms": 0,
        "budget": 1.0,
    },
    {"name": "watched", "kind": "shadow", "target": "tiny", "shadow": "cut"},
    {"name": "half", "kind": "canary", "target": "tiny", "candidate": "cut", "share": 0.5},
    {
        "name": "doomed",
        "kind": "canary",
        "target": "tiny",
        "candidate": {"target": "cut", "timeout_s": NO_TIME_S},
        "share": 1.0,
        "window": 10,
        "min_requests": 5,
    },
    {  # like doomed, for the tests of its metrics
        "name": "gone-back",
        "kind": "canary",
        "target": "tiny",
        "candidate": {"target": "cut", "timeout_s": NO_TIME_S},
        "share": 1.0,
        "window": 10,
        "min_requests": 5,
    },
    {"name": "spread", "kind": "scatter", "target": "tiny", "part_items": 3},
    {"name": "kept", "kind": "hedge", "target": "tiny", "cache_bytes": 100_000},
]


def stacked(answers: Sequence[Sequence[np.ndarray]], weights: Sequence[float]) -> list[np.ndarray]:
    """Return both logits times their weights, side by side: the combiner of `joined`."""
    scaled = [np.float32(w) * outputs[0] for outputs, w in zip(answers, weights, strict=True)]
    return [np.stack(scaled, axis=1)]

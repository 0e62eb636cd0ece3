"""Trained model, ready for a search, as in a job."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest

from cluster.compression import steps
from cluster.compression.work import Work

SEARCH = {
    "space": {
        "prune": {"ratios": [0.25, 0.5], "importance": "magnitude", "round_to": 2},
        "schemes": ["none", "bf16"],
        "calibration": "minmax",
        "calibration_samples": 16,
        "recovery": {"epochs": 1, "batch_size": 32, "learning_rate": 0.02},
    },
    # Bytes are the same in every run; so small a model's latency is not.
    "objective": "bytes",
    "batch": 2,
}


@pytest.fixture
def ready(bench: Callable) -> Callable:
    """Return ``ready(search={}, **fields)``: a bench with a trained model, also its baseline."""

    def make(search: dict | None = None, **fields: object):  # type: ignore[no-untyped-def]
        wanted = SEARCH | (search or {})
        wanted["space"] = SEARCH["space"] | wanted["space"]  # type: ignore[operator]
        initial = bench(
            search=wanted,
            **(
                {
                    "programs": [{"kinds": ["eager"]}],
                    "data": {"limit": 500, "validation_share": 0.3},
                    "steps": [{"kind": "train", "epochs": 4, "batch_size": 32}],
                    "evaluation": {"repeats": 5},
                    "gate": {"max_accuracy_drop": 0.2},
                }
                | fields
            ),
        )
        work, _ = steps.run(initial.work, initial.recipe.steps, initial.job)
        job = initial.job.with_baseline(copy.deepcopy(work.module))
        initial.lines.clear()
        return replace(initial, work=Work.of(work.module, work.inputs), job=job)

    return make

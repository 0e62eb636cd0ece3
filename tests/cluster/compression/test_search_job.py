"""Job with a search: the best model that passes the gate has the name; others are its front."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.artifact.local import LocalStore
from cluster.compression import job
from cluster.config.recipe import Recipe

SEARCH = {
    "objective": "latency",
    "space": {
        "prune": {"ratios": [0.5], "importance": "magnitude", "round_to": 4},
        "schemes": ["none", "bf16"],
        "recovery": {"epochs": 1, "learning_rate": 0.02},
    },
}


@pytest.fixture
def recipe(tiny_recipe: Callable[..., Recipe]) -> Recipe:
    """Return a recipe whose uncompressed program of 300 kB exceeds the gate's limit."""
    gate = {
        "max_accuracy_drop": 0.2,
        "min_speedup": None,
        "max_size_share": None,
        "max_bytes": 200_000,
    }
    programs = [{"kinds": ["exported"]}]
    return tiny_recipe("found", None, search=SEARCH, gate=gate, programs=programs)


@pytest.mark.slow
def test_model_rejected_by_gate_is_replaced_by_next(recipe: Recipe, tmp_path: Path) -> None:
    store, lines = LocalStore(tmp_path / "store"), list[str]()
    outcome = job.run(recipe, store, lines.append)
    assert outcome.artifact is not None
    manifest = store.open("found").manifest
    assert manifest.winner("cpu-x86").size_bytes <= 200_000
    kinds = [step["kind"] for step in manifest.recipe["steps"]]
    assert kinds[0] == "train"
    assert {"prune", "quantize"} & {*kinds}
    assert manifest.recipe["search"] is None

    report = json.loads(outcome.artifact.file("report.json").read_bytes())
    trials = {trial["number"]: trial for trial in report["search"]["trials"]}
    assert set(trials) == {1, 2, 3}
    assert trials[report["search"]["chosen"]]["feasible"]
    assert report["search"]["baseline"]["title"] == "uncompressed"
    published = {path.name for path in (store.root / "names").iterdir()}
    refused = {path.name for path in (store.root / "rejected").glob("*.json")}
    assert "found" in published
    assert all(name == "found" or name.startswith("found.front-") for name in published)
    # The uncompressed one is on the front or was tried first: it is refused either way, or unseen.
    assert all(name.startswith("found.") for name in refused)
    assert list((store.root / "kept").iterdir()) == []
    assert list((store.root / "building").iterdir()) == []

    lines.clear()
    assert job.run(recipe, store, lines.append).artifact is not None
    assert "already exists" in lines[0]

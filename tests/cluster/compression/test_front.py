"""Artifacts of a job with a search, in their order, and its resumption after a kill.

The trials and their programs are real; the measurements of fresh processes are simulated.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from cluster.artifact.artifact import Artifact
from cluster.artifact.entries import Latency
from cluster.artifact.local import LocalStore
from cluster.artifact.manifest import Drop, Measurement
from cluster.compression import front, job, packaging
from cluster.compression.evaluation.evaluate import EvaluationResult
from cluster.compression.evaluation.reference import Outputs
from cluster.compression.search import result as search_result
from cluster.compression.search.result import Trial
from cluster.compression.work import Clock
from cluster.config.recipe import Recipe

SEARCH = {"objective": "bytes", "space": {"prune": None, "schemes": ["none", "bf16", "fp16"]}}
GATE = {
    "max_accuracy_drop": None,
    "min_agreement": None,
    "min_speedup": None,
    "max_size_share": None,
}
EVALUATION_S = 10.0
LARGEST = "found.front-0"
"""Name of the uncompressed model: the largest, so never the best by bytes."""

Searched = Callable[..., Recipe]


@pytest.fixture
def searched(tiny_recipe: Callable[..., Recipe]) -> Searched:
    """Return ``searched(search={}, gate={})``: a recipe with three models, all on the front."""

    def make(search: dict | None = None, gate: dict | None = None) -> Recipe:
        return tiny_recipe(
            "found",
            None,
            "linear",
            search=SEARCH | (search or {}),
            gate=GATE | (gate or {}),
            programs=[{"kinds": ["eager"]}],
            data={"limit": 300},
        )

    return make


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Return a simulated clock: an evaluation takes ten seconds, every model is on the front."""
    now = [0.0]

    def evaluate(
        workspace: Path,
        recipe: Recipe,
        baseline: Path,
        outputs: Mapping[str, Outputs],
        *rest: object,
        **mates: object,
    ) -> EvaluationResult:
        now[0] += EVALUATION_S
        measurement = Measurement(
            accuracy=0.9,
            accuracy_low=0.8,
            accuracy_high=0.95,
            samples=100,
            drop=Drop(mean=0.0, upper=0.01, confidence=0.95),
            latency=(Latency(batch=1, p50_ms=1.0, p99_ms=1.0),),
            size_bytes=1000,
        )
        (entry,) = Artifact.read(workspace).manifest.programs
        key = entry.key
        shutil.copy(outputs[key].expected, outputs[key].computed)
        return EvaluationResult(
            baselines={key: measurement},
            programs={key: measurement},
            operators={key: 1},
            differences={key: 0.0},
        )

    monkeypatch.setattr(packaging.evaluate, "run", evaluate)
    monkeypatch.setattr(search_result, "pareto_front", lambda points: set(range(len(points))))
    return Clock(lambda: now[0])


class Store(LocalStore):
    """Store that records its publications, and simulates a kill before the last of a number."""

    def __init__(self, root: Path, until: int = 9) -> None:
        super().__init__(root)
        self.published: list[str] = []
        self._until = until

    def publish(self, finished: Path) -> Artifact:
        if len(self.published) == self._until:
            raise KeyboardInterrupt
        artifact = super().publish(finished)
        self.published.append(artifact.manifest.name)
        return artifact


def report(artifact: Artifact | None) -> Any:
    assert artifact is not None
    return json.loads(artifact.file("report.json").read_bytes())


def names(report: Any) -> set[str]:
    search = report["search"]
    return {trial["artifact"] for trial in (search["baseline"], *search["trials"])} - {None}


def below(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def test_best_model_is_published_last_and_names_front(
    searched: Searched, tmp_path: Path, clock: Clock
) -> None:
    store = Store(tmp_path)
    best = report(job.run(searched(), store, lambda line: None, clock=clock).artifact)
    *front, last = store.published
    assert last == "found"
    assert len(front) == 2
    assert LARGEST in front
    assert names(best) == {*store.published}
    # An artifact published later could still fail.
    assert names(report(store.open(front[0]))) == {front[0]}
    for name in store.published:
        assert report(store.open(name))["seconds"]["evaluate"] == EVALUATION_S
        assert "search" in report(store.open(name))["seconds"]
    assert below(tmp_path / "kept") == set()


def test_killed_job_resumes_rest_of_front(searched: Searched, tmp_path: Path) -> None:
    killed = Store(tmp_path, until=1)
    with pytest.raises(KeyboardInterrupt):
        job.run(searched(), killed, lambda line: None)
    (first,) = killed.published
    assert below(tmp_path / "names") == {first}
    store, lines = Store(tmp_path), list[str]()
    best = report(job.run(searched(), store, lines.append).artifact)
    assert first not in store.published
    assert any(line.endswith(f"already exists: {first}") for line in lines)
    assert below(tmp_path / "names") == {first, *store.published} == names(best)
    assert len(names(best)) == 3


def test_failed_model_of_front_keeps_best_model(
    searched: Searched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = Trial.build

    def fails(trial: Trial, *arguments: Any) -> Any:
        if trial.number == 0:
            raise RuntimeError("no kernel")
        return build(trial, *arguments)

    monkeypatch.setattr(Trial, "build", fails)
    store, lines = Store(tmp_path), list[str]()
    best = report(job.run(searched(), store, lines.append).artifact)
    assert names(best) == {*store.published} == below(tmp_path / "names")
    assert LARGEST not in store.published
    assert store.published[-1] == "found"
    assert f"{LARGEST} cannot be published: RuntimeError: no kernel" in lines


def test_model_of_front_that_kills_jobs_is_skipped_for_best(
    searched: Searched, tmp_path: Path
) -> None:
    for _ in range(front.MAX_BUILDS):
        with pytest.raises(KeyboardInterrupt):
            job.run(searched(), Store(tmp_path, until=0), lambda line: None)
    store, lines = Store(tmp_path), list[str]()
    best = report(job.run(searched(), store, lines.append).artifact)
    (skipped,) = [line.split()[0] for line in lines if "is skipped: the job died 2 times" in line]
    assert skipped not in store.published
    assert len(store.published) == 2
    assert names(best) == {*store.published}
    assert below(tmp_path / "kept") == set()


def test_refused_search_keeps_no_checkpoints(searched: Searched, tmp_path: Path) -> None:
    store, lines = Store(tmp_path), list[str]()
    outcome = job.run(searched(gate={"max_bytes": 1}), store, lines.append)
    assert outcome.artifact is None
    rejections = [line for line in lines if line.startswith("rejected by the gate")]
    assert rejections[-1].endswith(f" {outcome.report}")
    assert store.published == []
    assert below(tmp_path / "kept") == set()

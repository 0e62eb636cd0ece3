"""Journal of a search: a resumed search reads exactly the results of the killed one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cluster.artifact.manifest import Drop
from cluster.compression.search import search
from cluster.compression.search.journal import JOURNAL, Journal, TrialResult, key_of
from cluster.config.steps import Quantize
from cluster.errors import CompressionError

RESULT = TrialResult(
    number=1,
    stage="full",
    steps=(Quantize(kind="quantize", scheme="bf16"),),
    weights="base.safetensors",
    drop=Drop(mean=0.1, upper=0.2, confidence=0.95),
    sensitivity={"0": 0.25},
    seconds=1.5,
)


def begun(folder: Path, *results: TrialResult, key: str = "k") -> Journal:
    journal = Journal(folder, key)
    (folder / "base.safetensors").touch()
    for result in results:
        journal.append(result)
    return journal


def test_journal_restores_results_unchanged(tmp_path: Path) -> None:
    failed = TrialResult(number=2, stage="proxy", steps=(), failed="no\nprogram")
    begun(tmp_path / "search", RESULT, failed)
    assert Journal(tmp_path / "search", "k").results == (RESULT, failed)


@pytest.mark.parametrize("torn", [b'{"number":2,"stage"', b"\x00\xff", b'{"number":2}\n{"num'])
def test_torn_line_is_truncated_and_next_line_is_complete(tmp_path: Path, torn: bytes) -> None:
    begun(tmp_path / "search", RESULT)
    with (tmp_path / "search" / JOURNAL).open("ab") as stream:
        stream.write(torn)
    journal = Journal(tmp_path / "search", "k")
    assert journal.results == (RESULT,)
    second = RESULT.model_copy(update={"number": 2})
    journal.append(second)
    assert Journal(tmp_path / "search", "k").results == (RESULT, second)


def test_journal_of_another_search_is_removed_with_weights(tmp_path: Path) -> None:
    begun(tmp_path / "search", RESULT)
    (tmp_path / "search" / "0123.safetensors").touch()
    assert Journal(tmp_path / "search", "other").results == ()
    assert [path.name for path in (tmp_path / "search").iterdir()] == [JOURNAL]


def test_result_without_weights_is_ignored(tmp_path: Path) -> None:
    pruned = RESULT.model_copy(update={"number": 2, "weights": "0123.safetensors"})
    begun(tmp_path / "search", RESULT, pruned)
    assert Journal(tmp_path / "search", "k").results == (RESULT,)


def test_key_depends_on_names_shapes_and_values() -> None:
    key = key_of({"w": torch.ones(2)})
    assert key_of({"w": torch.ones(2)}) == key
    assert key_of({"w": torch.zeros(2)}) != key
    assert key_of({"v": torch.ones(2)}) != key
    assert key_of({"w": torch.ones(2, 1)}) != key


def test_unwritable_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "search").write_text("a file in the way")
    with pytest.raises(CompressionError, match="search's journal cannot be written"):
        Journal(tmp_path / "search", "k")


RUN = """
import sys
from pathlib import Path
from cluster.artifact.local import LocalStore
from cluster.compression.search import search
from cluster.compression.work import Job, Work
from cluster.config.recipe import Recipe

recipe, folder = Recipe.model_validate_json(sys.argv[1]), Path(sys.argv[2])
job = Job.load(
    recipe, LocalStore(folder / "store"), workspace=folder, checkpoints=folder,
    out=lambda line: print(line, flush=True),
)
search.run(recipe.search, Work.of(job.model.module, job.model.inputs), job)
"""


@pytest.mark.slow
def test_search_resumes_after_killed_search(bench: Callable, tmp_path: Path) -> None:
    initial = bench(
        search={
            "space": {
                "prune": {"ratios": [0.25, 0.5], "importance": "magnitude", "round_to": 2},
                "schemes": ["none", "bf16"],
                "recovery": {"epochs": 1},
            }
        },
        programs=[{"kinds": ["eager"]}],
        data={"limit": 200},
        evaluation={"repeats": 5},
        gate={"max_accuracy_drop": None},
    )
    checkpoints = initial.job.checkpoints
    with subprocess.Popen(
        [sys.executable, "-c", RUN, initial.recipe.model_dump_json(), str(checkpoints)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ.copy(),
    ) as killed:
        assert killed.stdout is not None
        trials = 0
        for line in killed.stdout:
            trials += line.startswith("trial")
            if trials == 4:
                killed.send_signal(signal.SIGKILL)
                break
    assert killed.wait() == -signal.SIGKILL
    file = checkpoints / "search" / JOURNAL
    entries = [json.loads(line) for line in file.read_text().splitlines()[1:]]
    assert len(entries) >= 4
    with file.open("a") as stream:
        stream.write('{"number": 5, "stage": "pro')  # as if it had died while writing
    (checkpoints / "search" / "0123.4.partial").touch()

    outcome = search.run(initial.recipe.search, initial.work, initial.job)
    assert outcome.resumed == len(entries)
    assert any(f"resumes after {len(entries)} results" in line for line in initial.lines)
    done = {(entry["number"], entry["stage"]) for entry in entries}
    trial_lines = [line for line in initial.lines if line.startswith("trial")]
    assert len(trial_lines) == len(outcome.standing.results) - len(done)
    for entry in entries:
        result = outcome.standing.results[entry["number"], entry["stage"]]
        assert result == TrialResult.model_validate(entry)
    assert not list((checkpoints / "search").glob("*.partial"))
    assert len(outcome.feasible) > 1
    outcome.feasible[0].build(replace(initial.job, out=lambda line: None))

"""Recipes of ``deployments/recipes``, changed and built, each in a process of its own.

recipe.yaml + changes → python -m benchmarks.compression_build → job.run → id → report.json → Built
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.compression_results import Built
from benchmarks.errors import BenchmarkError
from cluster.artifact.artifact import REPORT
from cluster.artifact.store import open_store
from cluster.compression.record import BuildRecord
from cluster.config.base import load, parse
from cluster.config.locate import located
from cluster.config.recipe import Recipe
from cluster.progress import to_stdout

ROOT = Path(__file__).parents[1]
RECIPES = ROOT / "deployments" / "recipes"

OPEN_GATE = {"max_accuracy_drop": None, "min_speedup": None, "max_size_share": None}
"""Refuses nothing for being slow or wrong: the table says so instead."""

_DATA = "HEADRACE_DATA"
_REJECTED = 3


@dataclass(frozen=True)
class Builder:
    """Builds recipes into one store. ``tiny`` cuts them down until they only prove that they run.

    Recipes that were built before are found in the store, and not measured again.
    """

    store: str
    tiny: bool = False

    def recipe(self, file: str, /, **changes: Any) -> Recipe:
        """The recipe in ``file``.yaml with other top-level fields, named for this benchmark.

        Raises ConfigError when the changed recipe is not valid.
        """
        os.environ.setdefault(_DATA, str(ROOT.parent / "shared" / "data"))
        read = located(load(RECIPES / f"{file}.yaml", Recipe), RECIPES)
        raw = read.model_dump(mode="json") | {"name": f"benchmark-{file}"} | changes
        return parse(cut_down(raw) if self.tiny else raw, Recipe, file)

    def build(self, title: str, recipe: Recipe) -> Built:
        """Run the job and read the report of its artifact.

        Raises BenchmarkError when the job fails or its gate refuses the artifact.
        """
        print(f"\n== {recipe.name}: {title}", flush=True)
        with tempfile.TemporaryDirectory(prefix="headrace-") as directory:
            task, result = Path(directory) / "recipe.json", Path(directory) / "id"
            task.write_text(recipe.model_dump_json())
            module = "benchmarks.compression_build"
            command = [sys.executable, "-m", module, str(task), self.store, str(result)]
            status = _run(command)
            if status == _REJECTED:
                raise BenchmarkError(f"{recipe.name} ({title}): the gate refused it, see above")
            if status != 0:
                raise BenchmarkError(f"{recipe.name} ({title}) failed: see above")
            artifact = open_store(self.store).open(result.read_text())
        record = BuildRecord.model_validate_json(artifact.file(REPORT).read_bytes())
        return Built.of(title, result_id(artifact.id), record)


def _run(command: list[str]) -> int:
    """Run it to its end; the exit status. What it started ends with it if this is interrupted."""
    process = subprocess.Popen(command, cwd=ROOT, env=environment(), start_new_session=True)
    try:
        return process.wait()
    except BaseException:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()
        raise


def cut_down(raw: dict[str, Any]) -> dict[str, Any]:
    """A recipe's plain data with few samples, updates, trials and repeats, and an open gate.

    On CPUs nothing is compiled either: that takes longer than all the rest.
    """
    small = json.loads(json.dumps(raw))
    small["name"] += "-tiny"
    small["data"]["limit"] = min(small["data"]["limit"] or 200, 200)
    small["evaluation"] |= {"samples": 40, "repeats": 5}
    small["gate"] |= OPEN_GATE
    for program in small["programs"]:
        if program["target"].startswith("cpu-"):
            program["kinds"] = ["exported"]
    teachers = [step.get("teacher") for step in small["steps"]]
    for teacher in filter(None, teachers):
        if teacher.get("artifact"):
            teacher["artifact"] += "-tiny"
    searched = small.get("search")
    if searched is not None:
        searched |= {"max_trials": 3, "time_budget_s": 120}
    for settings in _fits(small):
        settings |= {"epochs": 1, "updates": 2}
    return dict(small)


def _fits(raw: Any) -> list[dict[str, Any]]:
    """Every mapping in the recipe that says how long something trains."""
    inner = raw.values() if isinstance(raw, dict) else raw if isinstance(raw, list) else ()
    found = [fit for each in inner for fit in _fits(each)]
    return [raw, *found] if isinstance(raw, dict) and "epochs" in raw else found


def result_id(found: str | None) -> str:
    """The id of a published artifact, which always has one."""
    if found is None:
        raise BenchmarkError("the artifact has no id")
    return found


def environment() -> dict[str, str]:
    """The variables of a process that builds or loads what the recipes name."""
    path = [str(RECIPES), str(ROOT), os.environ.get("PYTHONPATH")]
    joined = os.pathsep.join(filter(None, path))
    # The one model from Transformers is installed; nothing is to be asked of the hub.
    return {**os.environ, "PYTHONPATH": joined, "HF_HUB_OFFLINE": "1"}


def main(task: Path, store: str, result: Path) -> int:
    """The process that builds; writes the artifact's id to ``result``."""
    # Imports PyTorch, which the process that starts the builds must not carry around.
    from cluster.compression import job

    recipe = parse(json.loads(task.read_text()), Recipe, str(task))
    outcome = job.run(recipe, open_store(store), to_stdout)
    if outcome.artifact is None:
        return _REJECTED
    result.write_text(result_id(outcome.artifact.id))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])))

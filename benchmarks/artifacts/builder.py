"""Builder of recipes: each job runs in a process of its own.

recipe + changes → python -m benchmarks.artifacts.builder TASK STORE RESULT → job.run → artifact id
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

from benchmarks.harness.errors import BenchmarkError
from cluster.artifact.store import open_store
from cluster.config.base import load, parse
from cluster.config.gate import LIMIT_NAMES
from cluster.config.locate import located
from cluster.config.recipe import Recipe
from cluster.progress import to_stdout

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "deployments" / "recipes"

OPEN_GATE: dict[str, None] = dict.fromkeys(LIMIT_NAMES)
"""Gate without limits: the table shows a bad artifact, the job does not reject it."""

_REJECTED = 3


@dataclass(frozen=True)
class Builder:
    """Builds recipes into one store; an artifact that the store holds is not built again.

    ``quick`` reduces a recipe of ``deployments/recipes`` until it only proves that it runs.
    """

    store: str
    quick: bool = False

    def recipe(self, file: str, /, **changes: Any) -> Recipe:
        """Return the recipe of ``file``.yaml with other top-level fields, named for benchmarks.

        Raises ConfigError when the changed recipe is not valid, or a variable in it is not set.
        """
        recipe = located(load(RECIPES / f"{file}.yaml", Recipe), RECIPES)
        raw = recipe.model_dump(mode="json") | {"name": f"benchmark-{file}"} | changes
        return parse(reduced(raw) if self.quick else raw, Recipe, file)

    def build(self, title: str, recipe: Recipe) -> str:
        """Run the job and return the id of its artifact.

        Raises BenchmarkError when the job fails or its gate rejects the artifact.
        """
        print(f"\n== {recipe.name}: {title}", flush=True)
        with tempfile.TemporaryDirectory(prefix="headrace-") as directory:
            task, result = Path(directory) / "recipe.json", Path(directory) / "id"
            task.write_text(recipe.model_dump_json())
            module = "benchmarks.artifacts.builder"
            status = _run([sys.executable, "-m", module, str(task), self.store, str(result)])
            if status == _REJECTED:
                raise BenchmarkError(f"{recipe.name} ({title}): the gate rejected it, see above")
            if status != 0:
                raise BenchmarkError(f"{recipe.name} ({title}): exit status {status}, see above")
            return result.read_text()


def environment() -> dict[str, str]:
    """Return the variables of a process that builds or loads what the recipes name."""
    path = [str(RECIPES), str(ROOT), os.environ.get("PYTHONPATH")]
    joined = os.pathsep.join(filter(None, path))
    # The only model of Transformers is installed; no request to the hub is needed.
    return {**os.environ, "PYTHONPATH": joined, "HF_HUB_OFFLINE": "1"}


def reduced(raw: dict[str, Any]) -> dict[str, Any]:
    """Return a recipe's plain data with few samples, updates, trials and repeats.

    The gate is open, and CPU programs are not compiled, which would take longest of all.
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
    search = small.get("search")
    if search is not None:
        search |= {"max_trials": 3, "time_budget_s": 120}
    for fit in _fits(small):
        fit |= {"epochs": 1, "updates": 2}
    return dict(small)


def _fits(raw: Any) -> list[dict[str, Any]]:
    """Return every mapping of the recipe that sets the length of a training."""
    inner = raw.values() if isinstance(raw, dict) else raw if isinstance(raw, list) else ()
    fits = [fit for value in inner for fit in _fits(value)]
    return [raw, *fits] if isinstance(raw, dict) and "epochs" in raw else fits


def _run(command: list[str]) -> int:
    """Return the exit status. An interrupt ends the process and its children."""
    process = subprocess.Popen(command, cwd=ROOT, env=environment(), start_new_session=True)
    try:
        return process.wait()
    except BaseException:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()
        raise


def main(task: Path, store: str, result: Path) -> int:
    """Build the recipe of ``task`` and write the artifact's id to ``result``."""
    # Imports PyTorch, which the measuring process must not load.
    from cluster.compression import job

    recipe = parse(json.loads(task.read_text()), Recipe, str(task))
    artifact = job.run(recipe, open_store(store), to_stdout).artifact
    if artifact is None or artifact.id is None:
        return _REJECTED
    result.write_text(artifact.id)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])))

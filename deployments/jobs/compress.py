"""Entry point of the compression job inside a Ray cluster.

    headrace compress → Ray job: python -P -m deployments.jobs.compress → job.run → JobResult
    KubeRay's RayJob  → Ray job: python -P -m deployments.jobs.compress RECIPE → the same

The environment variable ``HEADRACE_JOB`` holds the recipe and the store, as JSON. With a recipe's
file as the argument, ``HEADRACE_STORE`` is the store instead. The last line of the log is the
result for a program. Exit status: 0 accepted, 3 rejected by the gate, 2 invalid recipe or source,
1 failed.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from pathlib import Path

from cluster.artifact.store import default_store, open_store
from cluster.config.base import load, parse
from cluster.config.locate import located
from cluster.config.recipe import Recipe
from cluster.errors import GateError, HeadraceError
from cluster.progress import to_stdout
from deployments.jobs.launcher import RayLauncher
from deployments.jobs.result import ACCEPTED, JobResult

JOB_VARIABLE = "HEADRACE_JOB"


def environment(recipe: Recipe, store: str) -> dict[str, str]:
    """Return the variables to run the job with."""
    return {JOB_VARIABLE: json.dumps({"recipe": recipe.model_dump(mode="json"), "store": store})}


def main() -> int:
    """Run the job of the environment, or of the recipe's file; return the exit status."""
    result = _run()
    to_stdout(result.to_line())
    return result.status


def _run() -> JobResult:
    _quieten_torch()
    # Imported late: it imports PyTorch, which the command that submits the job does not need.
    from cluster.compression import job

    try:
        recipe, store = _task(sys.argv[1:])
        # Ray prepends this process's folder to the import path of the job's actors and tasks.
        os.chdir("/")
        with RayLauncher() as launcher:
            outcome = job.run(recipe, open_store(store), to_stdout, launcher)
    except HeadraceError as error:
        to_stdout(f"error: {error}")
        return JobResult.failed(error)
    if outcome.artifact is None:  # the job has printed why
        message = f"{recipe.name}: rejected by the gate; the report is {outcome.report}"
        return JobResult.failed(GateError(message, outcome.report))
    return JobResult(ACCEPTED, artifact=outcome.artifact.id)


def _task(arguments: list[str]) -> tuple[Recipe, str]:
    """Return the recipe and the store, from the recipe's file or from the environment."""
    if arguments:
        path = Path(arguments[0])
        return located(load(path, Recipe), path.parent.absolute()), default_store()
    task = json.loads(os.environ[JOB_VARIABLE])
    return parse(task["recipe"], Recipe, "recipe"), task["store"]


def _quieten_torch() -> None:
    """Suppress warnings that PyTorch addresses to its own developers."""
    warnings.filterwarnings("ignore", module=r"torch(ao)?\.")
    for name in ("torch.utils.cpp_extension", "torch.utils._pytree"):
        logging.getLogger(name).setLevel(logging.ERROR)


if __name__ == "__main__":
    sys.exit(main())

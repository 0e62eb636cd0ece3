"""The compression job's entry point inside a Ray cluster.

    headrace compress → Ray job: python -P -m deployments.jobs.compress → job.run → exit status

    KubeRay's RayJob  → Ray job: python -P -m deployments.jobs.compress RECIPE → the same

What to do stands in the environment variable ``HEADRACE_JOB``: JSON with the recipe as plain
data and the store; or in a recipe's file, and then ``HEADRACE_STORE`` says where to keep the
artifact. Exit status: 0 accepted, 3 rejected by the gate, 2 wrong recipe or source,
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
from cluster.errors import ConfigError, HeadraceError, PlanError, SourceError
from cluster.progress import to_stdout
from deployments.jobs.launcher import RayLauncher

ACCEPTED, FAILED, WRONG, REJECTED = 0, 1, 2, 3
"""Exit statuses."""


JOB_VARIABLE = "HEADRACE_JOB"


def environment(recipe: Recipe, store: str) -> dict[str, str]:
    """The variables to run the job with."""
    return {JOB_VARIABLE: json.dumps({"recipe": recipe.model_dump(mode="json"), "store": store})}


def main() -> int:
    """Run the job that the environment describes; returns the exit status."""
    _quieten_torch()
    # Imports PyTorch, which the command that submits the job has no need of.
    from cluster.compression import job

    try:
        recipe, store = _task(sys.argv[1:])
        # Ray puts this process's folder before the packages of every actor and task of the job.
        os.chdir("/")
        with RayLauncher() as launcher:
            outcome = job.run(recipe, open_store(store), to_stdout, launcher)
    except (ConfigError, PlanError, SourceError) as error:
        to_stdout(f"error: {error}")
        return WRONG
    except HeadraceError as error:
        to_stdout(f"error: {error}")
        return FAILED
    return ACCEPTED if outcome.artifact is not None else REJECTED


def _task(arguments: list[str]) -> tuple[Recipe, str]:
    """The recipe and the store: of the file that is given, or of the environment."""
    if arguments:
        path = Path(arguments[0])
        return located(load(path, Recipe), path.parent.absolute()), default_store()
    task = json.loads(os.environ[JOB_VARIABLE])
    return parse(task["recipe"], Recipe, "recipe"), task["store"]


def _quieten_torch() -> None:
    """Leave out of the job's log what PyTorch warns its own developers of."""
    warnings.filterwarnings("ignore", module=r"torch(ao)?\.")
    for name in ("torch.utils.cpp_extension", "torch.utils._pytree"):
        logging.getLogger(name).setLevel(logging.ERROR)


if __name__ == "__main__":
    sys.exit(main())

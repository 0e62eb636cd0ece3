"""The compression job's entry point inside a Ray cluster.

    headrace compress → Ray job: python -m deployments.compress JOB → job.run → exit status

``JOB`` is JSON with the recipe as plain data and the store. Exit status: 0 accepted, 3 rejected
by the gate, 2 wrong recipe or source, 1 failed.
"""

from __future__ import annotations

import json
import sys

from cluster.artifact.store import open_store
from cluster.compression import job
from cluster.config.base import parse
from cluster.config.recipe import Recipe
from cluster.errors import ConfigError, HeadraceError, SourceError
from cluster.progress import to_stdout

ACCEPTED, FAILED, WRONG, REJECTED = 0, 1, 2, 3
"""Exit statuses."""


def entrypoint_argument(recipe: Recipe, store: str) -> str:
    """The ``JOB`` argument for a recipe and a store."""
    return json.dumps({"recipe": recipe.model_dump(mode="json"), "store": store})


def main(argument: str) -> int:
    """Run the job described by ``argument``; returns the exit status."""
    try:
        task = json.loads(argument)
        recipe = parse(task["recipe"], Recipe, "recipe")
        outcome = job.run(recipe, open_store(task["store"]), to_stdout)
    except (ConfigError, SourceError) as error:
        to_stdout(f"error: {error}")
        return WRONG
    except HeadraceError as error:
        to_stdout(f"error: {error}")
        return FAILED
    return ACCEPTED if outcome.artifact is not None else REJECTED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

"""The artifact that every int8 contender serves: found in the store, or built.

benchmarks/resnet18.yaml → job.run in a process of its own → id → store → Artifact
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.errors import BenchmarkError
from cluster.artifact.artifact import Artifact
from cluster.artifact.store import default_store, open_store
from cluster.config.base import load
from cluster.config.recipe import Recipe
from cluster.progress import to_stdout

RECIPE = Path(__file__).parent / "resnet18.yaml"


def find_or_build() -> Artifact:
    """The recipe's artifact for this machine, in the store of ``HEADRACE_STORE``.

    Takes a minute or two the first time, seconds later. Raises BenchmarkError if the job fails.
    """
    with tempfile.TemporaryDirectory(prefix="headrace-") as directory:
        result = Path(directory) / "id"
        command = [sys.executable, "-m", "benchmarks.artifact", str(result)]
        status = subprocess.run(command, check=False).returncode
        if status != 0:
            raise BenchmarkError(f"{RECIPE} was not built (exit status {status}): see above")
        return open_store(default_store()).open(result.read_text())


def main(result: Path) -> int:
    """Run the job and write the artifact's id to ``result``; returns the exit status."""
    # Imports PyTorch, which the process that measures must not carry around.
    from cluster.compression import job

    outcome = job.run(load(RECIPE, Recipe), open_store(default_store()), to_stdout)
    if outcome.artifact is None or outcome.artifact.id is None:
        return 1
    result.write_text(outcome.artifact.id)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))

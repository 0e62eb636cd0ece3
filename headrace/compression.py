"""``headrace.compress``: the job of the command line, started from Python.

    recipe → its file → python -P -m headrace.command compress, a process → JobResult → Artifact

The command runs in a process of its own: Ray takes the cluster's address and token from the
environment when it is imported, and each job may have a cluster of its own.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from cluster.artifact.artifact import Artifact
from cluster.artifact.lookup import absolute
from cluster.artifact.store import default_store, open_store
from cluster.config.plain_yaml import format_yaml
from cluster.config.recipe import Recipe
from cluster.errors import ClusterError
from cluster.factory import IMPORT_PATH
from deployments.jobs.result import JobResult
from headrace.sources import Data, Limits, ModelOrRecipe, Steps, recipe_of


def compress(
    model_or_recipe: ModelOrRecipe,
    data: Data | None = None,
    *,
    steps: Steps | None = None,
    gate: Limits | None = None,
    store: str | os.PathLike[str] | None = None,
    address: str | None = None,
    **fields: Any,
) -> Artifact:
    """Build an artifact as ``headrace compress`` does, and print the job's log.

    ``model_or_recipe``: a recipe (file, mapping, :class:`Recipe`), or a model: its source such as
    ``torchvision:resnet18``, a mapping or :class:`ModelSource`, or a function of a module that
    returns an ``nn.Module``. With a model, ``data`` is a source of labelled samples, None the
    bundled digits; ``steps``, ``gate`` and ``fields`` (``name``, ``evaluation``, ``programs``,
    ``seed``, ...) are fields of the recipe. ``name`` is by default the last word of the source.

    ``store``: directory or fsspec URI; None: HEADRACE_STORE, else ``~/.headrace/store``.
    ``address``: a Ray cluster's dashboard; None: RAY_ADDRESS, else a local cluster. Functions are
    imported there from this process's ``sys.path``.

    ConfigError for a wrong recipe, SourceError for a model or data that the job cannot use,
    GateError if the gate rejects the build, CompressionError if a step fails, ClusterError for a
    cluster that is unavailable.
    """
    recipe = recipe_of(model_or_recipe, data, steps, gate, fields)
    location = absolute(default_store() if store is None else os.fspath(store))
    with tempfile.TemporaryDirectory(prefix="headrace-recipe-") as directory:
        file, result_file = Path(directory) / "recipe.yaml", Path(directory) / "result.json"
        file.write_text(format_yaml(recipe.model_dump(mode="json")))
        command = [str(file), "--store", location, "--result", str(result_file)]
        command += [] if address is None else ["--address", address]
        status, log = _run(command)
        artifact_id = built(recipe, status, log, result_file)
    return open_store(location).fetch(artifact_id)


def _run(arguments: list[str]) -> tuple[int, str]:
    """Run the command to its end; return its exit status and its output, which is printed, too."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "headrace.command", "compress", *arguments],
        env={**os.environ, IMPORT_PATH: _import_path()},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,  # Ctrl-C reaches it once, by way of this process
    )
    lines = []
    try:
        for line in process.stdout or ():
            lines.append(line)
            print(line, end="", flush=True)
        return process.wait(), "".join(lines)
    except BaseException:
        process.send_signal(signal.SIGTERM)  # it stops its job and cluster
        process.communicate()
        raise


def _import_path() -> str:
    """Return the folders of this process's ``sys.path``, which are searched last."""
    inherited = os.environ.get(IMPORT_PATH, "")
    return os.pathsep.join(filter(None, [*(os.path.abspath(p) for p in sys.path), inherited]))


def built(recipe: Recipe, status: int, log: str, result_file: Path) -> str:
    """Return the id of the artifact that a command has built, or raise its error.

    ``status`` and ``log`` describe a command or job that ended without a result.
    """
    result = JobResult(status)
    with suppress(FileNotFoundError, ValueError):  # ended before, or while, it wrote the result
        result = JobResult.from_json(result_file.read_text())
    if result.error is not None:
        raise result.error
    if result.artifact is not None:
        return result.artifact
    raise ClusterError(
        f"{recipe.name}: `headrace compress` ended with exit status {status} and without a "
        f"result; the last lines of its log: {log[-500:].strip() or 'none'}"
    )

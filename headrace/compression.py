"""``headrace.compress``: the job of the command line, started from Python.

    recipe → its file → python -P -m headrace.command compress, a process → log → Artifact | error

The command runs in a process of its own: Ray takes the cluster's address and token from the
environment when it is imported, and each job may have a cluster of its own.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from cluster.artifact.artifact import Artifact
from cluster.artifact.lookup import absolute
from cluster.artifact.store import default_store, open_store
from cluster.config.plain_yaml import format_yaml
from cluster.config.recipe import Recipe
from cluster.errors import (
    ClusterError,
    CompressionError,
    ConfigError,
    GateError,
    HeadraceError,
    SourceError,
)
from cluster.factory import IMPORT_PATH
from headrace.sources import Data, Limits, ModelOrRecipe, Steps, recipe_of

ACCEPTED, FAILED, WRONG, REJECTED = 0, 1, 2, 3
"""Exit statuses of the command."""

_ARTIFACT = re.compile(r"^artifact ([0-9a-f]{64})\b", re.MULTILINE)
_REPORT = re.compile(r"^rejected by the gate; the report is (.+)$", re.MULTILINE)
_ERROR = re.compile(r"^(headrace|error): (.+(?:\n(?!headrace: |error: ).*)*)", re.MULTILINE)

_ERRORS: dict[tuple[str, int], type[HeadraceError]] = {
    ("headrace", WRONG): ConfigError,  # of the command, before the job
    ("headrace", FAILED): ClusterError,
    ("error", WRONG): SourceError,  # of the job
    ("error", FAILED): CompressionError,
}


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
        file = Path(directory) / "recipe.yaml"
        file.write_text(format_yaml(recipe.model_dump(mode="json")))
        command = [str(file), "--store", location]
        command += [] if address is None else ["--address", address]
        status, log = _run(command)
    return open_store(location).fetch(result(recipe, status, log))


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


def result(recipe: Recipe, status: int, log: str) -> str:
    """Return the id of the artifact that a command has built, or raise its error.

    ``log``: all that it printed, with the job's log.
    """
    if status == ACCEPTED and (ids := _ARTIFACT.findall(log)):
        return str(ids[-1])  # the others are of a search's front
    if status == REJECTED and (reports := _REPORT.findall(log)):
        raise GateError(
            f"{recipe.name}: rejected by the gate; the report is {reports[-1]}", reports[-1]
        )
    messages = list(_ERROR.finditer(log))
    if messages and (kind := _ERRORS.get((messages[-1][1], status))) is not None:
        raise kind(messages[-1][2].strip())
    raise ClusterError(
        f"{recipe.name}: `headrace compress` ended with exit status {status}, and its log does not "
        f"say why; its last lines: {log[-500:].strip() or 'none'}"
    )

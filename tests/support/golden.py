"""Real artifacts for tests of serving, built once on a machine and kept between runs.

    recipe, versions, CPU → key ─→ cached? ──────────────────────────→ copied into the run's store
                                     └ no: lock → build aside → rename ─┘

An edit of the source rebuilds nothing: tests of serving need a real artifact, not the newest one.
Tests of builds build their artifacts themselves (tests/cluster/compression).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

from cluster.artifact.local import LocalStore
from cluster.artifact.manifest import SCHEMA_VERSION
from cluster.config.recipe import Recipe
from cluster.program import node

CACHE_VARIABLE = "HEADRACE_TEST_CACHE"
"""Environment variable: directory of the cache; ``~/.cache/headrace-tests`` by default."""

UNUSED_S = 14 * 24 * 3600
"""Age in seconds after which an artifact that no run has used is removed."""

_PACKAGES = ("torch", "torchao", "torchvision", "openvino", "nncf", "numpy", "safetensors")


def build(recipe: Recipe, store: Path) -> None:
    """Build the artifact of ``recipe`` in ``store``, with the log beside it as ``NAME.log``."""
    # Importing the job imports PyTorch, which a run with a full cache has no need of.
    from cluster.compression import job

    log = store / f"{recipe.name}.log"
    with log.open("w", buffering=1) as lines:
        outcome = job.run(recipe, LocalStore(store), lambda line: print(line, file=lines))
    assert outcome.artifact is not None, f"the gate rejects the test artifact:\n{log.read_text()}"


Build = Callable[[Recipe, Path], None]


def copy_into(store: Path, recipe: Recipe, models: str, build: Build = build) -> None:
    """Copy the artifact of ``recipe`` into a store, after building it if the cache lacks it.

    ``models``: source text of the module that the recipe names. AssertionError with the build's
    log if the gate rejects the artifact.
    """
    shutil.copytree(_cached(recipe, models, build), store, dirs_exist_ok=True)


def _cached(recipe: Recipe, models: str, build: Build) -> Path:
    cache = _directory()
    cache.mkdir(parents=True, exist_ok=True)
    final = cache / _key(recipe, models)
    with _locked(final.with_suffix(".lock")):
        if not final.is_dir():
            _remove_unused(cache)
            aside = final.with_suffix(".building")
            shutil.rmtree(aside, ignore_errors=True)  # from an interrupted run
            aside.mkdir()
            build(recipe, aside)
            aside.rename(final)
        os.utime(final)
    return final


def _directory() -> Path:
    chosen = os.environ.get(CACHE_VARIABLE)
    return Path(chosen) if chosen else Path.home() / ".cache" / "headrace-tests"


def _key(recipe: Recipe, models: str) -> str:
    """Return a key of everything except source that determines whether an artifact is usable."""
    facts = {
        "schema": SCHEMA_VERSION,
        "recipe": recipe.model_dump(mode="json"),
        "models": models,
        "versions": {name: node.installed_version(name) for name in _PACKAGES},
        "python": platform.python_version(),
        "cpu": [node.cpu_name(), *sorted(node.cpu_features())],
        "targets": node.targets(),
    }
    text = json.dumps(facts, sort_keys=True)
    return f"{recipe.name}-{sha256(text.encode()).hexdigest()[:24]}"


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of a cache entry; the kernel frees it when the process ends."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _remove_unused(cache: Path) -> None:
    oldest = time.time() - UNUSED_S
    for entry in cache.iterdir():
        if entry.is_dir() and entry.stat().st_mtime < oldest:
            shutil.rmtree(entry, ignore_errors=True)

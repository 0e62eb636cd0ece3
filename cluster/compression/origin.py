"""Identity of a build: everything besides the recipe's text that decides the result."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path

from cluster import __version__, factory, fingerprint
from cluster.artifact.store import ArtifactStore
from cluster.config.recipe import Recipe
from cluster.config.steps import Distill, TeacherSource
from cluster.data import LabelledData
from cluster.models import source_fingerprint
from cluster.program import node

_CODE = Path(fingerprint.__file__).parent
"""The whole library: the code that reads, prepares and compiles decides the result, too."""

_PACKAGES = ("torchao", "torchvision", "torch-pruning", "transformers", "openvino", "nncf")


def of(recipe: Recipe, data: LabelledData, store: ArtifactStore) -> str:
    """Return a text that changes whenever the same recipe would build another result.

    ``store``: holds the teachers that are artifacts. ArtifactNotFoundError for an unknown one.
    """
    code = sorted([*_CODE.rglob("*.py"), *_CODE.rglob("*.cpp")])
    return json.dumps(
        {
            "headrace": __version__,
            "code": fingerprint.of_files(_CODE, code),
            "versions": versions(),
            "cpu": sorted(node.cpu_features()),
            "model": recipe.model.model_dump(mode="json"),
            "model_content": source_fingerprint(recipe.model),
            "metrics": [
                factory.identity(name.removeprefix("python:"))
                for name in recipe.evaluation.metrics
                if name.startswith("python:")
            ],
            "teachers": [_identity(teacher, store) for teacher in _teachers(recipe)],
            "data": recipe.data.model_dump(mode="json"),
            "data_content": data.fingerprint,
            "seed": recipe.seed,
        },
        sort_keys=True,
    )


def versions() -> dict[str, str]:
    """Return the installed version of each package that takes part in a build."""
    installed = {"headrace": __version__, "torch": node.torch_version()}
    for package in _PACKAGES:
        try:
            installed[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue  # optional; a step that needs it reports it
    return installed


def _teachers(recipe: Recipe) -> list[TeacherSource]:
    steps: list[object] = [*recipe.steps]
    if recipe.search is not None:
        steps.append(recipe.search.space.recovery)
    return [step.teacher for step in steps if isinstance(step, Distill) and step.teacher]


def _identity(teacher: TeacherSource, store: ArtifactStore) -> str | None:
    if teacher.model is not None:
        return source_fingerprint(teacher.model)
    return store.open(teacher.artifact or "").id

"""Environments: each dependency of pyproject.toml is pinned, with hashes, from no named index.

pyproject.toml ── make lock ──> requirements/{dev,demo,uv}.txt
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())

EXTRAS = {"dev": ("dev",), "demo": ("openvino",), "uv": ()}
"""Files of requirements/, each with the extras that it pins."""
GROUPS = {"dev": ("build",), "demo": ("build",), "uv": ("uv",)}


def _expanded(extra: str) -> Iterator[Requirement]:
    """Yield the requirements of ``extra``, with those of its nested extras."""
    for text in PYPROJECT["project"]["optional-dependencies"][extra]:
        requirement = Requirement(text)
        if requirement.name == PYPROJECT["project"]["name"]:
            for nested in requirement.extras:
                yield from _expanded(nested)
        else:
            yield requirement


def _declared(name: str) -> list[Requirement]:
    """Return the direct requirements that the file ``name`` pins."""
    declared = [Requirement(text) for group in GROUPS[name] for text in _group(group)]
    for extra in EXTRAS[name]:
        declared += _expanded(extra)
    if EXTRAS[name]:
        declared += [Requirement(text) for text in PYPROJECT["project"]["dependencies"]]
    return declared


def _group(name: str) -> list[str]:
    return PYPROJECT["dependency-groups"][name]


def _entries(name: str) -> list[str]:
    """Return the entries of a file, each on one line with its hashes."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text().replace("\\\n", " ")
    return [line for line in text.splitlines() if not line.startswith("#")]


def _pins(name: str) -> dict[str, str]:
    """Return the pinned version of each package of a file."""
    pins = {}
    for entry in _entries(name):
        package, version = re.match(r"(\S+?)==(\S+)", entry).groups()  # type: ignore[union-attr]
        pins[canonicalize_name(package)] = version
    return pins


@pytest.mark.parametrize("name", EXTRAS)
def test_pins_satisfy_pyproject(name: str) -> None:
    pins = _pins(name)
    stale = [
        f"{requirement}, pinned: {version}"
        for requirement in _declared(name)
        if (version := pins.get(canonicalize_name(requirement.name))) is None
        or version not in requirement.specifier
    ]
    assert not stale, f"requirements/{name}.txt is not up to date, run `make lock`: {stale}"


@pytest.mark.parametrize("name", EXTRAS)
def test_every_entry_has_version_and_hashes_only(name: str) -> None:
    form = re.compile(r"[\w.-]+(\[[\w,]+\])?==\S+( ; [^#]+?)?(\s+--hash=sha256:[0-9a-f]{64})+")
    wrong = [entry for entry in _entries(name) if not form.fullmatch(entry)]
    assert not wrong


def test_demo_installs_a_part_of_dev() -> None:
    demo, dev = _pins("demo"), _pins("dev")
    assert demo.items() < dev.items()
    assert not {"pytest", "ruff", "mypy", "transformers"} & demo.keys()


def test_changelog_names_this_version() -> None:
    source = (ROOT / PYPROJECT["tool"]["hatch"]["version"]["path"]).read_text()
    version = re.search(r'^__version__ = "(.+)"$', source, re.MULTILINE).group(1)  # type: ignore[union-attr]
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert next(heading for heading in headings if heading != "Unreleased") == version

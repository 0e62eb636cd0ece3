"""docs/operations.md names tests, and settings, that are there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from deployments.local.environment import network_environment

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "operations.md").read_text()


def test_every_test_and_file_it_names_is_there() -> None:
    named = set(re.findall(r"`((?:tests|deployments|k8s)/[\w./-]+)`", TEXT))
    assert len(named) > 10
    assert not [name for name in sorted(named) if not (ROOT / name).exists()]
    linked = re.findall(r"\]\(([\w./]+\.md)\)", TEXT)
    assert not [name for name in linked if not (ROOT / "docs" / name).exists()]


def test_the_settings_for_several_nodes_are_those_of_the_code() -> None:
    exported = {
        name: value
        for line in re.findall(r"^export (.*?)(?:  +#.*)?$", TEXT, re.MULTILINE)
        for name, _, value in (each.partition("=") for each in shlex.split(line))
    }
    ours = network_environment()
    assert {name: exported[name] for name in ours} == ours

"""Threat model: every line in docs/security.md names an existing test."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "security.md").read_text()
THREATS = TEXT.partition("## Threats")[2].partition("\n## ")[0]
LINES = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in THREATS.splitlines()
    if line.startswith("| ") and not line.startswith(("| threat |", "| ---"))
]
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


@cache
def defined_in(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_threat_model_has_enough_threats(capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print(f"\n{len(LINES)} lines of the threat model", end="")
    assert len(LINES) >= 30


@pytest.mark.parametrize("line", LINES, ids=lambda line: line[0][:50])
def test_threat_has_defence_and_existing_test(line: list[str]) -> None:
    threat, defence, tests = line
    assert threat
    assert defence
    references = NAMED.findall(tests)
    assert references, tests
    assert re.sub(r"[,\s]", "", NAMED.sub("", tests)) == ""
    for path, name in references:
        assert name in defined_in(path), f"{path} has no {name}"

"""Continuous integration: the same script for outsiders, and the system packages that it needs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from support.marks import CLUSTER_FIXTURES

ROOT = Path(__file__).parents[1]
WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"
PACKAGES = ROOT / ".ci" / "packages"

COMMANDS = ("g++", "curl", "wget", "openssl", "redis-server", "wrk", "prometheus")
"""Commands that .ci/packages looks for, besides those of /usr/sbin."""


def _workflow_commands() -> set[str]:
    """Return the commands that the jobs of the workflow run."""
    (job,) = yaml.safe_load(WORKFLOW.read_text())["jobs"].values()
    return {entry["run"] for entry in job["strategy"]["matrix"]["include"]}


@pytest.mark.parametrize("command", sorted(_workflow_commands()))
def test_workflow_command_exists(command: str) -> None:
    first, *targets = command.split()
    if first == "make":
        check = ["make", "--dry-run", *targets]
    else:
        assert os.access(ROOT / first, os.X_OK)
        check = ["bash", "-n", first]
    result = subprocess.run(check, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_ci_script_runs_checks_and_tests() -> None:
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    assert {"make check", "make test"} <= set(lines)


def test_folder_with_cluster_tests_is_run_alone() -> None:
    """`make test` runs the other folders in parallel, without tests of clusters."""
    starts = re.compile(
        rf"@pytest\.mark\.cluster\b|^def (?:{'|'.join(CLUSTER_FIXTURES)})\(", re.MULTILINE
    )
    folders = {
        path.relative_to(ROOT).parts[1]
        for path in (ROOT / "tests").rglob("*.py")
        if path.parent != ROOT / "tests" and starts.search(path.read_text())
    }
    (line,) = re.findall(r"^CLUSTERS := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert folders - {"nodes"} == {folder.removeprefix("tests/") for folder in line.split()}


@pytest.fixture
def commands(tmp_path: Path) -> Path:
    """PATH directory with a shell, stubs of all commands, and an apt-get that logs its calls."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("bash", "env", "cat"):
        (folder / name).symlink_to(str(shutil.which(name)))
    _script(folder / "apt-get", f'echo "$*" >> {tmp_path}/calls')
    _script(folder / "id", "echo 0")
    for name in COMMANDS:
        _script(folder / name, "true")
    return folder


def _script(path: Path, line: str) -> None:
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)


def _packages(commands: Path) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Run .ci/packages; return its result and the calls of apt-get."""
    result = subprocess.run(
        [str(PACKAGES)], env={"PATH": str(commands)}, capture_output=True, text=True, check=False
    )
    calls = commands.parent / "calls"
    return result, calls.read_text().splitlines() if calls.exists() else []


def test_missing_packages_are_installed(commands: Path) -> None:
    (commands / "prometheus").unlink()
    (commands / "wrk").unlink()
    result, calls = _packages(commands)
    assert result.returncode == 0
    assert calls[0] == "update -qq"
    assert calls[1].split()[0] == "install"
    installed = set(calls[1].split())
    assert {"prometheus", "wrk"} <= installed
    assert not {"g++", "redis-server"} & installed


def test_missing_packages_are_named_without_root(commands: Path) -> None:
    (commands / "prometheus").unlink()
    _script(commands / "id", "echo 1000")
    result, calls = _packages(commands)
    assert (result.returncode, calls) == (0, [])
    assert "prometheus" in result.stderr


def test_failed_installation_does_not_end_ci(commands: Path) -> None:
    (commands / "wrk").unlink()
    _script(commands / "apt-get", "exit 100")
    result, _ = _packages(commands)
    assert result.returncode == 0
    assert "could not be installed: " in result.stderr
    assert "wrk" in result.stderr

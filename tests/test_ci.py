"""Continuous integration: the same for outsiders as here, and with the system's packages."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"
PACKAGES = ROOT / ".ci" / "packages"

COMMANDS = ("g++", "curl", "wget", "openssl", "redis-server", "wrk", "prometheus")
"""Those that .ci/packages looks for outside of /usr/sbin, which it looks into in any case."""


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
    ended = subprocess.run(check, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


@pytest.fixture
def commands(tmp_path: Path) -> Path:
    """A directory with nothing on it but a shell, an apt-get that writes down what it is asked,
    and all that is looked for."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("bash", "env", "cat"):
        (folder / name).symlink_to(str(shutil.which(name)))
    _script(folder / "apt-get", f'echo "$*" >> {tmp_path}/asked')
    _script(folder / "id", "echo 0")
    for name in COMMANDS:
        _script(folder / name, "true")
    return folder


def _script(path: Path, line: str) -> None:
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)


def _packages(commands: Path) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    ended = subprocess.run(
        [str(PACKAGES)], env={"PATH": str(commands)}, capture_output=True, text=True, check=False
    )
    asked = commands.parent / "asked"
    return ended, asked.read_text().splitlines() if asked.exists() else []


def test_what_is_missing_is_installed(commands: Path) -> None:
    (commands / "prometheus").unlink()
    (commands / "wrk").unlink()
    ended, asked = _packages(commands)
    assert ended.returncode == 0
    assert asked[0] == "update -qq"
    assert asked[1].split()[0] == "install"
    installed = set(asked[1].split())
    assert {"prometheus", "wrk"} <= installed
    assert not {"g++", "redis-server"} & installed


def test_without_root_what_is_missing_is_named(commands: Path) -> None:
    (commands / "prometheus").unlink()
    _script(commands / "id", "echo 1000")
    ended, asked = _packages(commands)
    assert (ended.returncode, asked) == (0, [])
    assert "prometheus" in ended.stderr


def test_what_cannot_be_installed_ends_nothing(commands: Path) -> None:
    (commands / "wrk").unlink()
    _script(commands / "apt-get", "exit 100")
    ended, _ = _packages(commands)
    assert ended.returncode == 0
    assert "could not be installed: " in ended.stderr
    assert "wrk" in ended.stderr

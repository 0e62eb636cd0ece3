"""A user's own ``cluster`` or ``deployments`` is neither run nor mixed with ours."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.errors import SourceError
from cluster.factory import IMPORT_PATH, find_factory
from headrace import command

ROOT = Path(command.__file__).parents[1]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with both names; each package leaves a mark where it is run."""
    mark = f"open({str(tmp_path / 'ran')!r}, 'w')\nraise RuntimeError('the user's package ran')\n"
    (tmp_path / "cluster.py").write_text(mark)
    (tmp_path / "deployments").mkdir()
    (tmp_path / "deployments" / "__init__.py").write_text(mark)
    return tmp_path


def run(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: v for name, v in os.environ.items() if name != "PYTHONPATH"}
    headrace = str(Path(sys.executable).with_name("headrace"))
    return subprocess.run(
        [headrace, *arguments],
        cwd=folder,
        env=environment | variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def test_command_runs_in_folder_with_both_names(folder: Path) -> None:
    done = run(folder, "--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert not (folder / "ran").exists()


def test_command_refuses_foreign_package_on_path(folder: Path) -> None:
    done = run(folder, "--version", PYTHONPATH=str(folder))
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert f"`import cluster` finds {folder / 'cluster.py'}, expected Headrace's" in done.stderr
    assert "pip uninstall cluster" in done.stderr
    assert not (folder / "ran").exists()


RECIPE = """
name: beside
model: {source: "python:mine:net", image: {size: 8, channels: 1, mean: [0.5], std: [0.5]}}
data: {source: digits}
steps: [{kind: train, epochs: 1, processes: 2}]
evaluation: {repeats: 5, batches: [1]}
programs: [{kinds: [exported]}]
gate: {max_accuracy_drop: null, min_agreement: null, min_speedup: null, max_size_share: null}
"""
MODEL = """
from torch import nn


def net(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))
"""


@pytest.mark.slow
@pytest.mark.cluster
def test_job_runs_beside_packages_of_both_names(folder: Path) -> None:
    """The job, its evaluations and the actors of its training, from the user's own folder."""
    (folder / "recipe.yaml").write_text(RECIPE)
    (folder / "mine.py").write_text(MODEL)
    store = str(folder / "store")
    done = run(folder, "compress", "recipe.yaml", "--store", store, HOME=str(folder / "home"))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "artifact" in done.stdout
    assert not (folder / "ran").exists()


def test_users_module_with_installed_name_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Packages come first, so the user's own would be passed over silently."""
    (tmp_path / "colorsys.py").write_text("def net(num_classes): ...")
    (tmp_path / "mine_alone.py").write_text("def net(num_classes): ...")
    monkeypatch.setenv(IMPORT_PATH, str(tmp_path))
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert find_factory("mine_alone:net")
    with pytest.raises(SourceError, match=r"`import colorsys` finds .*; give your module another"):
        find_factory("colorsys:net")

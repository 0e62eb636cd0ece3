"""Secrets that others can read and stores that cannot be used: named before anything starts."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployments.cli.main import main
from deployments.local import LocalCluster

CONFIG = """
applications:
- name: m
  route_prefix: /v2/models/m
  import_path: deployments.app:model
  args: {name: m, artifact: m}
"""


@pytest.fixture(autouse=True)
def _nothing_starts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def start(**_: object) -> None:
        pytest.fail("a cluster was to be started")

    monkeypatch.setattr(LocalCluster, "start", start)
    monkeypatch.setattr(LocalCluster, "running", lambda: None)
    for name in ("RAY_AUTH_TOKEN_PATH", "HEADRACE_API_KEYS_FILE", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HEADRACE_STORE", str(tmp_path))


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "serve.yaml"
    path.write_text(CONFIG)
    return path


@pytest.mark.parametrize("variable", ["RAY_AUTH_TOKEN_PATH", "HEADRACE_API_KEYS_FILE"])
def test_a_secret_that_others_can_read(
    variable: str,
    config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    secret = tmp_path / "secret"
    monkeypatch.setenv(variable, str(secret))
    assert main(["up", str(config)]) == 2
    assert f"{variable}={secret}: cannot be read: No such file" in capsys.readouterr().err
    secret.write_text("clients: []")
    for mode in (0o644, 0o640, 0o604):
        secret.chmod(mode)
        assert main(["up", str(config)]) == 2
        said = capsys.readouterr().err
        assert f"{variable}={secret}: others can read it (mode {mode:o})" in said
        assert f"`chmod 600 {secret}`" in said
    secret.chmod(0o600)
    monkeypatch.setenv("HEADRACE_STORE", str(tmp_path / "none"))
    assert main(["up", str(config)]) == 2  # further on: the store
    assert "cannot be read: No such file" in capsys.readouterr().err


def test_a_store_that_is_not_there(
    config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for store, why in ((tmp_path / "none", "No such file"), (config, "Not a directory")):
        monkeypatch.setenv("HEADRACE_STORE", str(store))
        assert main(["up", str(config)]) == 2
        said = capsys.readouterr().err
        assert f"{config}: model m: store {store}: cannot be read: {why}" in said
        assert "HEADRACE_STORE" in said


def test_a_store_below_a_file_cannot_be_built_into(
    tmp_path: Path, recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = recipe / "store"
    assert main(["compress", str(recipe), "--store", str(store)]) == 2
    said = capsys.readouterr().err
    assert f"store {store}: cannot be written: Not a directory; give a directory of yours" in said


def test_a_threshold_that_could_not_be_kept_is_not_looked_for(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    routes = recipe.parents[1] / "configs" / "digits-routes.yaml"
    monkeypatch.setenv("HEADRACE_STORE", str(recipe / "store"))
    assert main(["calibrate", str(routes), "sure", "--agreement", "0.99"]) == 2
    assert "cannot be written: Not a directory" in capsys.readouterr().err


def test_a_store_on_a_file_system_that_is_read_only(
    read_only: Path, recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Root may write anything, and yet not here.
    assert main(["compress", str(recipe), "--store", str(read_only)]) == 2
    said = capsys.readouterr().err
    assert f"store {read_only}: cannot be written: Read-only file system" in said


@pytest.fixture
def recipe() -> Path:
    return Path(__file__).parents[2] / "deployments" / "recipes" / "digits-bf16.yaml"


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "read-only"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", folder], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no read-only file system can be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)

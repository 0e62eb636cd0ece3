"""Secrets readable by others and unusable stores: rejected before anything starts."""

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
    for name in (
        "RAY_AUTH_TOKEN_PATH",
        "HEADRACE_API_KEYS_FILE",
        "HEADRACE_API_KEYS",
        "HEADRACE_TRUSTED_KEYS",
        "RAY_ADDRESS",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HEADRACE_STORE", str(tmp_path))


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "serve.yaml"
    path.write_text(CONFIG)
    return path


@pytest.mark.parametrize("variable", ["RAY_AUTH_TOKEN_PATH", "HEADRACE_API_KEYS_FILE"])
def test_secret_readable_by_others_is_rejected(
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
    secret.write_text("clients: [{name: web, key: 0123456789abcdef}]")
    for mode in (0o644, 0o640, 0o604):
        secret.chmod(mode)
        assert main(["up", str(config)]) == 2
        printed = capsys.readouterr().err
        assert f"{variable}={secret}: others can read or change it (mode {mode:o})" in printed
        assert f"`chmod 600 {secret}`" in printed
    secret.chmod(0o600)
    monkeypatch.setenv("HEADRACE_STORE", str(tmp_path / "none"))
    assert main(["up", str(config)]) == 2  # further on: the store
    assert "cannot be read: No such file" in capsys.readouterr().err


@pytest.mark.parametrize("variable", ["RAY_AUTH_TOKEN_PATH", "HEADRACE_API_KEYS_FILE"])
def test_secret_that_is_no_file_is_rejected(
    variable: str,
    config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for path, kind in ((tmp_path, "a directory"), (Path("/dev/null"), "a device, pipe or socket")):
        monkeypatch.setenv(variable, str(path))
        assert main(["up", str(config)]) == 2
        printed = capsys.readouterr().err
        assert f"{variable}={path}: expected a file, got {kind}" in printed
        assert "chmod" not in printed


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"HEADRACE_API_KEYS": "clients: ["}, "HEADRACE_API_KEYS: not valid YAML: line 1"),
        ({"HEADRACE_API_KEYS": "clients: [{name: a, key: short}]"}, "at least 16 characters"),
        (
            {"HEADRACE_API_KEYS": "x", "HEADRACE_API_KEYS_FILE": "KEYS"},
            "HEADRACE_API_KEYS_FILE and HEADRACE_API_KEYS are both set",
        ),
        ({"HEADRACE_API_KEYS_FILE": "keys.yaml"}, "keys.yaml: expected an absolute path"),
        ({"HEADRACE_TRUSTED_KEYS": "trusted"}, "=trusted: expected an absolute path"),
    ],
)
def test_up_rejects_unusable_keys(
    environment: dict[str, str],
    message: str,
    config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "trusted").mkdir()
    keys = tmp_path / "keys.yaml"
    keys.write_text("clients: [{name: web, key: 0123456789abcdef}]")
    keys.chmod(0o600)
    for name, value in environment.items():
        monkeypatch.setenv(name, value.replace("KEYS", str(keys)))
    for arguments in ([str(config)], []):
        assert main(["up", *arguments]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("artifact", ["m", "../../x", "f" * 64])
def test_up_rejects_missing_artifact(
    artifact: str, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_text(CONFIG.replace("artifact: m", f"artifact: {artifact}"))
    assert main(["up", str(config)]) == 1
    assert f"no artifact {artifact!r} in the store" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["- " * 20_000, "a: 2024-13-45", "a: 0x_", "a: 1\na: 2", "\0"])
def test_up_rejects_config_that_is_no_yaml(
    text: str, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_text(text)
    assert main(["up", str(config)]) == 2
    assert f"headrace: {config}: " in capsys.readouterr().err


def test_up_rejects_missing_store(
    config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for store, why in ((tmp_path / "none", "No such file"), (config, "Not a directory")):
        monkeypatch.setenv("HEADRACE_STORE", str(store))
        assert main(["up", str(config)]) == 2
        printed = capsys.readouterr().err
        assert f"{config}: model m: store {store}: cannot be read: {why}" in printed
        assert "HEADRACE_STORE" in printed


def test_compress_rejects_store_below_file(
    tmp_path: Path, recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = recipe / "store"
    assert main(["compress", str(recipe), "--store", str(store)]) == 2
    printed = capsys.readouterr().err
    assert (
        f"store {store}: cannot be written: Not a directory; name a writable directory" in printed
    )


def test_calibrate_rejects_unwritable_store_first(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    routes = recipe.parents[1] / "configs" / "digits-routes.yaml"
    monkeypatch.setenv("HEADRACE_STORE", str(recipe / "store"))
    assert main(["calibrate", str(routes), "sure", "--agreement", "0.99"]) == 2
    assert "cannot be written: Not a directory" in capsys.readouterr().err


def test_compress_rejects_store_on_read_only_file_system(
    read_only: Path, recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Root may write anything, and yet not here.
    assert main(["compress", str(recipe), "--store", str(read_only)]) == 2
    printed = capsys.readouterr().err
    assert f"store {read_only}: cannot be written: Read-only file system" in printed


@pytest.fixture
def recipe() -> Path:
    return Path(__file__).parents[3] / "deployments" / "recipes" / "digits-bf16.yaml"


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

"""Artifact or error of a finished ``headrace compress``, from its exit status and log."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import headrace
from cluster.config.recipe import Recipe
from cluster.errors import (
    ClusterError,
    CompressionError,
    ConfigError,
    GateError,
    HeadraceError,
    SourceError,
)
from cluster.factory import IMPORT_PATH
from deployments.local import ports
from headrace import compression
from headrace.compression import result

RECIPE = Recipe.model_validate({"name": "digits", "model": {"source": "torchvision:resnet18"}})
ID, OTHER = "ab" * 32, "cd" * 32


def test_last_artifact_of_the_log_is_the_result() -> None:
    log = f"artifact {OTHER} exists already: digits.front-1\nartifact {ID}\n"
    assert result(RECIPE, 0, log) == ID
    assert result(RECIPE, 0, f"artifact {ID} exists already: this recipe was built before\n") == ID


def test_rejection_has_the_report_s_location() -> None:
    with pytest.raises(GateError, match="digits: rejected by the gate") as error:
        result(RECIPE, 3, "gate\nrejected by the gate; the report is /store/rejected/d.json\n")
    assert error.value.report == "/store/rejected/d.json"
    assert isinstance(error.value, CompressionError)


@pytest.mark.parametrize(
    ("status", "log", "kind", "message"),
    [
        (2, "headrace: --store: not writable\n", ConfigError, "--store: not writable"),
        (1, "headrace: the job could not be submitted\n", ClusterError, "could not be submitted"),
        (2, "data ok\nerror: no such model\nsecond line\n", SourceError, "model\nsecond line$"),
        (1, "headrace: the log broke off\nerror: step 1\n", CompressionError, "^step 1$"),
        (130, "headrace: interrupted\n", ClusterError, "exit status 130.*interrupted"),
        (0, "the log broke off\n", ClusterError, "exit status 0"),
        (3, "", ClusterError, "last lines: none"),
    ],
)
def test_failure_has_the_command_s_message(
    status: int, log: str, kind: type[HeadraceError], message: str
) -> None:
    with pytest.raises(HeadraceError, match=message) as error:
        result(RECIPE, status, log)
    assert type(error.value) is kind


def test_command_s_refusal_is_raised_and_its_output_shown(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "store").touch()
    with pytest.raises(HeadraceError, match=str(tmp_path / "store")) as error:
        headrace.compress(RECIPE, store=tmp_path / "store")
    assert not isinstance(error.value, CompressionError)
    assert f"headrace: {error.value}" in capfd.readouterr().out


def test_unavailable_cluster_is_named() -> None:
    (port,) = ports.free_ports(1)
    with pytest.raises(ClusterError, match=f"could not be submitted to http://127.0.0.1:{port}"):
        headrace.compress(RECIPE, address=f"http://127.0.0.1:{port}")


def test_job_imports_from_folders_of_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv(IMPORT_PATH, "/inherited")
    folders = compression._import_path().split(os.pathsep)
    assert (folders[0], folders[-1]) == (str(tmp_path), "/inherited")
    assert all(os.path.isabs(folder) for folder in folders)

"""Artifact or error of a finished ``headrace compress``."""

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
    PlanError,
    SourceError,
)
from cluster.factory import IMPORT_PATH
from deployments.jobs.result import JobResult
from deployments.local import ports
from headrace import compression
from headrace.compression import built

RECIPE = Recipe.model_validate({"name": "digits", "model": {"source": "torchvision:resnet18"}})
ID = "ab" * 32


def test_artifact_of_the_result_is_returned(tmp_path: Path) -> None:
    assert built(RECIPE, 0, "", write(tmp_path, JobResult(0, ID))) == ID


@pytest.mark.parametrize("kind", [ConfigError, PlanError, SourceError, CompressionError])
def test_error_of_the_result_is_raised(tmp_path: Path, kind: type[HeadraceError]) -> None:
    file = write(tmp_path, JobResult.failed(kind("steps[0]: no\nsecond line")))
    with pytest.raises(HeadraceError, match=r"^steps\[0\]: no\nsecond line$") as error:
        built(RECIPE, 1, "", file)
    assert type(error.value) is kind


def test_rejection_has_the_report_s_location(tmp_path: Path) -> None:
    file = write(tmp_path, JobResult.failed(GateError("digits: rejected", "/store/d.json")))
    with pytest.raises(GateError, match=r"^digits: rejected$") as error:
        built(RECIPE, 3, "", file)
    assert error.value.report == "/store/d.json"


@pytest.mark.parametrize("text", [None, "", JobResult(-9).to_json()])
def test_command_without_result_is_cluster_error(tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "result.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ClusterError, match=r"(?s)digits: .* exit status -9 .*the log broke off"):
        built(RECIPE, -9, "data ok\nthe log broke off\n", file)
    with pytest.raises(ClusterError, match="its log: none"):
        built(RECIPE, 0, "", file)


def write(folder: Path, result: JobResult) -> Path:
    file = folder / "result.json"
    file.write_text(result.to_json())
    return file


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

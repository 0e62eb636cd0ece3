"""Fixtures: the overlays, each built once, and a store with synthetic artifacts."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from synthetic_artifacts import layout, publish

from deployments.cli.main import main
from deployments.kubernetes import overlay

Objects = list[dict[str, Any]]


@dataclass(frozen=True)
class Result:
    """Exit status and output of a command."""

    status: int
    out: str
    err: str


Headrace = Callable[..., Result]


@pytest.fixture(scope="session")
def kustomize() -> None:
    """Skip the test without kubectl or kustomize."""
    if not any(shutil.which(tool) for tool in ("kubectl", "kustomize")):
        pytest.skip("neither kubectl nor kustomize is installed")


@pytest.fixture(scope="session")
def overlays(kustomize: None) -> dict[str, Objects]:
    """Name → objects of every overlay, built by kustomize."""
    return {
        name: overlay.build(overlay.k8s_dir() / "overlays" / name) for name in overlay.overlays()
    }


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Store with ``plain`` and ``cut`` for CPUs, and for H100s ``large`` and ``twelve``.

    ``large`` has eight stages, ``twelve`` has twelve.
    """
    root = tmp_path_factory.mktemp("k8s-store")
    publish(root, "plain", "cpu-x86")
    publish(root, "cut", "cpu-x86", layout("cpu-x86", 2, 1))
    publish(root, "large", "cuda-sm90", layout("cuda-sm90", 8, 1), layout("cuda-sm90", 8, 4))
    publish(root, "twelve", "cuda-sm90", layout("cuda-sm90", 12, 1))
    return root


@pytest.fixture
def headrace(capsys: pytest.CaptureFixture[str]) -> Headrace:
    """Callable that runs a `headrace` command in this process."""

    def run(*arguments: object) -> Result:
        status = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Result(status, captured.out, captured.err)

    return run


@pytest.fixture
def plan(headrace: Headrace, store: Path, tmp_path: Path) -> Callable[..., Path]:
    """``plan(artifact, *arguments)``: the file of ``headrace plan --json``."""

    def write(artifact: str, *arguments: str) -> Path:
        result = headrace("plan", artifact, "--store", store, "--json", *arguments)
        assert result.status == 0, result.err
        path = tmp_path / f"{artifact}-plan.json"
        path.write_text(result.out)
        return path

    return write

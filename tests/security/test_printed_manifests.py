"""Printed manifests: escaped untrusted texts, without forged lines of output."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.artifact.artifact import MANIFEST, Artifact
from cluster.artifact.local import LocalStore
from cluster.artifact.manifest import content_id
from cluster.errors import ArtifactError
from cluster.program import node
from cluster.program import program as programs
from deployments.cli.main import main

Finished = Callable[..., bytes]

FORGED = "0\nsigned     4f3f79a777d6e6bc2393ec92db56ce3d (trusted)\x1b[8m\r\u202e"
SHOWN = r"0\nsigned     4f3f79a777d6e6bc2393ec92db56ce3d (trusted)\x1b[8m\r\u202e"
LATENCY = [{"batch": 1, "p50_ms": 1.0, "p99_ms": 2.0}]
MEASURED = {
    "accuracy": 1,
    "accuracy_low": 1,
    "accuracy_high": 1,
    "samples": 1,
    "latency": LATENCY,
    "size_bytes": 1,
    "drop": None,
}


def _set(manifest: dict[str, Any], field: str) -> None:
    """Put the forged text into a field that accepts any text."""
    match field:
        case "label":
            manifest["labels"] = [FORGED]
        case "tensor":
            manifest["inputs"][0]["name"] = FORGED
        case "model":
            manifest["recipe"] = {"model": {"source": FORGED}, "steps": []}
        case "step":
            manifest["recipe"] = {"steps": [{"kind": "quantize", "scheme": FORGED}]}
        case "layer":
            manifest["layouts"] = [_layout()]


def _layout() -> dict[str, Any]:
    tensor = {"name": "input", "datatype": "FP32", "shape": [-1, 4]}
    program = {
        "kind": "aoti",
        "target": "cpu-x86",
        "file": "programs/cpu-x86.pt2",
        "cpu_features": [],
        "torch_version": "2",
        "native_runner": None,
        "python_abi": None,
        "inputs": [tensor],
    }
    shard = {
        "stage": 0,
        "tp_rank": 0,
        "program": program,
        "outputs": [tensor],
        "weights": "w",
        "weight_bytes": 1,
        "activation_bytes": 1,
        "latency": LATENCY,
    }
    return {
        "target": "cpu-x86",
        "kind": "aoti",
        "pipeline": 1,
        "tensor": 1,
        "crossing": [[tensor], [tensor]],
        "after": [FORGED],
        "shards": [shard],
        "reduces": [0],
    }


@pytest.fixture
def publish(tmp_path: Path, finished: Finished) -> Callable[[dict[str, Any]], str]:
    """Factory of an artifact with a manifest in the store ``tmp_path/store``; returns its id."""
    template = tmp_path / "template"
    finished(template)

    def write(manifest: dict[str, Any]) -> str:
        raw = json.dumps(manifest).encode()
        folder = tmp_path / "store" / "artifacts" / content_id(raw)
        shutil.copytree(template, folder)
        (folder / MANIFEST).write_bytes(raw)
        return content_id(raw)

    return write


@pytest.fixture
def manifest(publish: object, tmp_path: Path) -> dict[str, Any]:
    return dict(json.loads((tmp_path / "template" / MANIFEST).read_text()))


@pytest.mark.parametrize("field", ["label", "tensor", "model", "step", "layer"])
def test_inspect_and_sign_escape_forged_texts(
    field: str,
    manifest: dict[str, Any],
    publish: Callable[[dict[str, Any]], str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _set(manifest, field)
    manifest |= {"baseline": MEASURED, "measured": {"cpu-x86/aoti": MEASURED}}
    store, artifact_id = str(tmp_path / "store"), publish(manifest)
    assert main(["inspect", artifact_id, "--store", store]) == 0
    printed = capsys.readouterr().out
    assert SHOWN in printed
    assert [line for line in printed.split("\n") if not line.isprintable()] == []
    assert [line for line in printed.splitlines() if line.startswith("signed")] == []

    assert main(["inspect", artifact_id, "--store", store, "--json"]) == 0
    printed = capsys.readouterr().out
    report = json.loads(printed)
    assert (report["signatures"], report["recipe"]) == ({}, manifest["recipe"])
    assert [line for line in printed.split("\n") if not line.isprintable()] == []

    key = tmp_path / "key.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", key], check=True)
    key.chmod(0o600)
    assert main(["sign", artifact_id, "--key", str(key), "--store", store]) == 0
    name, signed, command = capsys.readouterr().out.splitlines()
    assert (name, signed[:10], command[:15]) == (
        f"m  {artifact_id}",
        "signed by ",
        "  openssl pkey ",
    )


@pytest.mark.parametrize("field", ["kind", "target", "file", "torch_version", "cpu_features"])
def test_manifest_rejects_unprintable_program_fields(
    field: str, manifest: dict[str, Any], publish: Callable[[dict[str, Any]], str], tmp_path: Path
) -> None:
    """A replica logs the chosen program, and the reasons against the others."""
    program = _layout()["shards"][0]["program"]
    manifest["programs"] = [
        program | {field: [FORGED] if field == "cpu_features" else FORGED},
        program,
    ]
    store = LocalStore(tmp_path / "store")
    with pytest.raises(
        ArtifactError, match=f"not a Headrace manifest: programs.0.{field}"
    ) as error:
        store.open(publish(manifest))
    assert str(error.value).isprintable()


def test_reason_of_program_choice_is_one_line(
    manifest: dict[str, Any], publish: Callable[[dict[str, Any]], str], tmp_path: Path
) -> None:
    program = _layout()["shards"][0]["program"] | {"torch_version": "0.1", "inputs": None}
    rejected = [{**program, "kind": "none"}, {**program, "cpu_features": ["amx_none"]}]
    manifest["programs"] = [
        *rejected,
        program | {"kind": "eager", "torch_version": node.torch_version()},
    ]
    artifact: Artifact = LocalStore(tmp_path / "store").open(publish(manifest))
    reason = programs.choose(artifact, ["cpu-x86"]).reason
    assert "unknown kind 'none', expected one of" in reason
    assert reason.isprintable()


@pytest.mark.parametrize(
    "recipe", [{}, {"steps": None, "model": []}, {"steps": [1, {}], "model": {"source": 1}}]
)
def test_inspect_shows_empty_recipe(
    recipe: dict[str, Any],
    manifest: dict[str, Any],
    publish: Callable[[dict[str, Any]], str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    artifact_id = publish(manifest | {"recipe": recipe})
    assert main(["inspect", artifact_id, "--store", str(tmp_path / "store")]) == 0
    assert "model      " in capsys.readouterr().out

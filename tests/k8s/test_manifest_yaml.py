"""YAML of manifests: read as kubectl reads it, and written so that every reader agrees."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cluster.config.plain_yaml import parse_yaml
from cluster.errors import ConfigError
from deployments.kubernetes import manifest_yaml

SCALARS: dict[str, Any] = {
    **dict.fromkeys(("y", "Y", "yes", "on", "On", "TRUE", "true"), True),
    **dict.fromkeys(("n", "N", "no", "off", "OFF", "False"), False),
    **dict.fromkeys(("~", "null", ""), None),
    "10": 10,
    "+1": 1,
    "-3": -3,
    "1_000": 1000,
    "0": 0,
    "007": 7,
    "010": 8,
    "0o17": 15,
    "0b11": 3,
    "-0B11": -3,
    "0x1F": 31,
    "0X1f": 31,
    "09": 9,
    "1e3": 1000,
    "1e+06": 1e6,
    "1.5": 1.5,
    ".5": 0.5,
    "1.": 1,
    "-2.5e-1": -0.25,
    "1_0.5": 10.5,
    **{text: text for text in ("1:20", "1:20.5", "2024-01-02", "12e45678", "0o8", "0x", "+", "=")},
    **{text: text for text in ("nO", "oN", "tRue", "4Gi", "100m", "1.2.3", "<<", "._5", "yy")},
}
"""Plain scalars, and their values as kubectl 1.32 reads them; a test below compares them."""

AWKWARD = [text for text in SCALARS if text not in ("",)] + ["", " a", "a: b", "é", "x\ny\n", "#"]


def by_kubectl(folder: Path, text: str) -> Any:
    """Return a document as kubectl reads it, without a cluster."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    (folder / "object.yaml").write_text(text)
    command = [
        "kubectl",
        "annotate",
        "--local",
        "--filename",
        "object.yaml",
        "a=b",
        "--output=json",
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def config_map(lines: list[str]) -> str:
    head = ["apiVersion: v1", "kind: ConfigMap", "metadata: {name: x}", "data:"]
    return "\n".join([*head, *lines]) + "\n"


@pytest.mark.parametrize("text", SCALARS)
def test_plain_scalar_has_its_type_of_go_yaml(text: str) -> None:
    value = manifest_yaml.load(f"a: {text}", "here")["a"]
    assert value == SCALARS[text]
    assert isinstance(value, bool) == isinstance(SCALARS[text], bool)


def test_expected_types_are_those_of_kubectl(tmp_path: Path) -> None:
    text = config_map([f"  k{index}: {scalar}" for index, scalar in enumerate(SCALARS)])
    data = by_kubectl(tmp_path, text)["data"]
    values = [data[f"k{index}"] for index in range(len(SCALARS))]
    assert values == list(SCALARS.values())
    assert data == manifest_yaml.load(text, "here")["data"]


def test_keys_are_text_as_kubectl_makes_them(tmp_path: Path) -> None:
    text = config_map(["  n: 'a'", "  10: b", "  1.5: c", "  on: d", "  <<: {e: f}"])
    data = manifest_yaml.load(text, "here")["data"]
    assert data == {"false": "a", "10": "b", "1.5": "c", "true": "d", "e": "f"}
    assert by_kubectl(tmp_path, text)["data"] == data


def test_written_text_is_text_for_kubectl(tmp_path: Path) -> None:
    data = {f"k{index}": text for index, text in enumerate(AWKWARD)}
    obj = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "data": data}
    assert by_kubectl(tmp_path, manifest_yaml.dump(obj))["data"] == data


@given(st.text("0123456789._+-eExXoObByYnNtTfF:~=<' \n#é", max_size=12) | st.sampled_from(AWKWARD))
def test_written_text_is_text_for_every_reader(text: str) -> None:
    data = {"value": text, text: ["value"]} if text != "value" else {"value": text}
    written = manifest_yaml.dump(data)
    assert manifest_yaml.load(written, "here") == data
    assert yaml.safe_load(written) == data  # YAML 1.1, as `serve deploy` reads
    assert parse_yaml(written, "here") == data  # YAML 1.2, as `headrace up` reads


def test_text_of_several_lines_stays_readable() -> None:
    assert manifest_yaml.dump({"b": "x\ny\n", "a": [1, 2.5, True, None]}) == (
        "b: |\n  x\n  y\na:\n- 1\n- 2.5\n- true\n- null\n"
    )


def test_invalid_text_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^spec\.x: not valid YAML: "):
        manifest_yaml.load("a: [", "spec.x")
    with pytest.raises(ConfigError, match=r"^spec\.x: must be one YAML document \(given: 2\)"):
        manifest_yaml.load("a: 1\n---\nb: 2", "spec.x")
    assert manifest_yaml.load("", "spec.x") is None

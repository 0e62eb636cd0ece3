"""Invalid plan files, and those of another artifact: refused with field, value and expectation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from manifests import DIGEST
from synthetic_artifacts import MIB, edited, layout, publish

from cluster.artifact.local import LocalStore

pytestmark = pytest.mark.usefixtures("kustomize")
Refused = Callable[[Path], str]
INVALID = "not a file of `headrace plan --json`: "


@pytest.fixture
def refused(headrace: Callable[..., Any], store: Path) -> Refused:
    """Render with a plan for ``cut``, check the refusal, and return its message."""

    def render(path: Path) -> str:
        result = headrace(
            "k8s",
            "render",
            "--model",
            "cut",
            "--store",
            store,
            "--image",
            "headrace",
            "--plan",
            path,
        )
        assert (result.status, result.out) == (2, "")
        assert result.err.startswith(f"headrace: --plan {path}: ")
        return str(result.err)

    return render


@pytest.fixture
def plan_file(plan: Callable[..., Path]) -> Path:
    return plan("cut", "--devices", "2xcpu-x86", "--pipeline", "2")


INFINITE, NAN = float("inf"), float("nan")
ONE = {"CPU": 1.0}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pipeline": INFINITE}, "pipeline: Input should be a valid integer (given: inf)"),
        ({"pipeline": 0}, "pipeline: Input should be greater than or equal to 1 (given: 0)"),
        ({"pipeline": -1, "tensor": -2}, "tensor: Input should be greater than or equal to 1"),
        (
            {"pipeline": 3},
            "shards: pipeline 3 × tensor 1 needs 3, in order of stage and tp_rank (given: 2)",
        ),
        ({"layout": None}, "layout: None does not match pp2.tp1: a built cut has a layout"),
        (
            {"layout": "cpu-x86/aoti/pp3.tp1"},
            "layout: the artifact has no cut cpu-x86/aoti/pp3.tp1 for",
        ),
        ({"built": "false"}, "built: Input should be a valid boolean (given: 'false')"),
        ({"batch": True}, "batch: Input should be a valid integer (given: True)"),
        ({"batch": 10**9}, "batch: Input should be less than or equal to 1024"),
        ({"target": ["cpu-x86"]}, "target: Input should be a valid string"),
        ({"placement": "x"}, "placement: Input should be 'PACK', 'STRICT_PACK' or 'SPREAD'"),
        ({"latency_ms": NAN}, "latency_ms: Input should be a finite number (given: nan)"),
        ({"stage_ms": [-1.0]}, "stage_ms[0]: Input should be greater than or equal to 0"),
        ({"bundles": [{"memory": 1.0}, {"CPU": INFINITE}, ONE]}, "bundles[1].CPU: Input should be"),
        ({"bundles": [{"memory": 1.0}, {"CPU": NAN}, ONE]}, "bundles[1].CPU: Input should be a"),
        ({"bundles": [{"memory": 1.0}, {"CPU": -5}, ONE]}, "bundles[1].CPU: Input should be great"),
        ({"bundles": [{"memory": 1.0}, {"CPU": 1e9}, ONE]}, "bundles[1].CPU: Input should be less"),
        ({"bundles": [{"memory": 1.0}, {"CPU": 0.5}, ONE]}, "bundles: must be [{"),
        ({"bundles": [{"CPU": 1.0, "GPU": 0.5}] * 3}, "bundles: must be [{"),
        ({"bundles": [ONE] * 50}, 'bundles: must be [{"memory": 1.0}, {"CPU": 1.0}, {"CPU": 1.0}]'),
        ({"bundles": []}, "bundles: must be"),
        (
            {"shards": []},
            "shards: pipeline 2 × tensor 1 needs 2, in order of stage and tp_rank (given: 0)",
        ),
        ({"colour": "red"}, "colour: Extra inputs are not permitted (given: 'red')"),
    ],
)
def test_message_names_the_wrong_field(
    refused: Refused, plan_file: Path, tmp_path: Path, fields: dict[str, Any], message: str
) -> None:
    assert message in refused(edited(plan_file, tmp_path / "wrong.json", **fields))


@pytest.mark.parametrize(
    ("weight_bytes", "message"),
    [(-(10**13), "greater than or equal to 0"), (10**15, "less than or")],
)
def test_memory_out_of_bounds_is_refused(
    refused: Refused, plan_file: Path, tmp_path: Path, weight_bytes: int, message: str
) -> None:
    shards = [
        {**s, "weight_bytes": weight_bytes} for s in json.loads(plan_file.read_text())["shards"]
    ]
    text = refused(edited(plan_file, tmp_path / "wrong.json", shards=shards))
    assert f"shards[0].weight_bytes: Input should be {message}" in text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{}", f"{INVALID}artifact: required field is missing; write it again"),
        (b"[]", f"{INVALID}Input should be an object"),
        (b'{"shards": 1}', f"{INVALID}shards: Input should be a valid array (given: 1)"),
        (b"nonsense", f"{INVALID}Invalid JSON"),
        (b"[" * 100_000, f"{INVALID}Invalid JSON: recursion limit exceeded"),
        (b"\xff\xfe\x00", f"{INVALID}Invalid JSON"),
        (b"", f"{INVALID}Invalid JSON"),
    ],
)
def test_other_content_is_refused(
    refused: Refused, tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "wrong.json"
    path.write_bytes(content)
    assert message in refused(path)


@pytest.mark.parametrize(
    ("batch", "message"),
    [("1e400", "batch: Input should be a valid integer"), ("9" * 5000, "number out of range")],
)
def test_number_out_of_range_is_refused(
    refused: Refused, plan_file: Path, tmp_path: Path, batch: str, message: str
) -> None:
    path = tmp_path / "wrong.json"
    path.write_text(plan_file.read_text().replace('"batch": 8', f'"batch": {batch}'))
    assert message in refused(path)


def test_unreadable_path_is_refused(refused: Refused, tmp_path: Path) -> None:
    assert "cannot be read: Is a directory" in refused(tmp_path)
    assert "cannot be read: embedded null byte" in refused(Path("a\0b"))


def test_plan_of_another_model_is_refused(
    headrace: Callable[..., Any], store: Path, plan: Callable[..., Path], tmp_path: Path
) -> None:
    plan_file = plan("cut", "--devices", "2xcpu-x86", "--pipeline", "2")
    arguments = ("k8s", "render", "--image", DIGEST, "--plan")
    other = headrace(*arguments, plan_file, "--model", "plain", "--store", store)
    assert other.status == 2
    assert "the plan is for cut, expected plain; run `headrace plan plain --json >" in other.err
    unbuilt = edited(plan_file, tmp_path / "unbuilt.json", built=False)
    result = headrace(*arguments, unbuilt, "--model", "cut", "--store", store)
    assert result.status == 2
    assert "the plan's cut is not built; add `parallel: [{pipeline: 2, tensor: 1}]`" in result.err
    result = headrace(*arguments, tmp_path / "none.json", "--model", "cut", "--store", store)
    assert (result.status, "cannot be read: No such file" in result.err) == (2, True)


def test_plan_of_another_build_is_refused(
    headrace: Callable[..., Any], store: Path, plan: Callable[..., Path], tmp_path: Path
) -> None:
    rebuilt = tmp_path / "other-store"
    # The same cut with other weights.
    publish(rebuilt, "cut", "cpu-x86", layout("cpu-x86", 2, 1, weight_bytes=41 * MIB))
    publish(rebuilt, "plain", "cpu-x86", size_bytes=81 * MIB)
    cut = plan("cut", "--devices", "2xcpu-x86", "--pipeline", "2")
    whole = plan("plain", "--devices", "1xcpu-x86")
    for name, path in (("cut", cut), ("plain", whole)):
        arguments = ("k8s", "render", "--image", DIGEST, "--plan", path, "--model", name)
        result = headrace(*arguments, "--store", store)
        assert result.status == 0, result.err
        result = headrace(*arguments, "--store", rebuilt)
        assert result.status == 2
        ids = [str(LocalStore(root).open(name).id)[:12] for root in (store, rebuilt)]
        assert (
            f"the plan is for another build of {name}: artifact {ids[0]}, expected {ids[1]}; "
            f"run `headrace plan {name} --json > {path}`" in result.err
        )

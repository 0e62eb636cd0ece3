"""Plans that are none, or of another artifact: refused with the field's name, never a traceback."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_artifacts import MIB, edited, layout, publish
from manifests import DIGEST

from cluster.artifact.local import LocalStore

pytestmark = pytest.mark.usefixtures("kustomize")
Refused = Callable[[Path], str]
NOT_PRINTED = "not what `headrace plan --json` prints: "


@pytest.fixture
def refused(headrace: Callable[..., Any], store: Path) -> Refused:
    """What is said of a plan for ``cut`` that is refused."""

    def render(path: Path) -> str:
        ran = headrace(
            "k8s", "render", "--model", "cut", "--store", store, "--image", "headrace", "--plan",
            path,
        )  # fmt: skip
        assert (ran.status, ran.out) == (2, "")
        assert ran.err.startswith(f"headrace: --plan {path}: ")
        return str(ran.err)

    return render


@pytest.fixture
def made(plan: Callable[..., Path]) -> Path:
    return plan("cut", "--devices", "2xcpu-x86", "--pipeline", "2")


INFINITE, NONE = float("inf"), float("nan")
ONE = {"CPU": 1.0}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"pipeline": INFINITE}, "pipeline: Input should be a valid integer (given: inf)"),
        ({"pipeline": 0}, "pipeline: Input should be greater than or equal to 1 (given: 0)"),
        ({"pipeline": -1, "tensor": -2}, "tensor: Input should be greater than or equal to 1"),
        ({"pipeline": 3}, "shards: 2, of pipeline 3 × tensor 1 there are 3"),
        ({"layout": None}, "layout: None does not go with pp2.tp1: a cut that is built has one"),
        ({"layout": "cpu-x86/aoti/pp3.tp1"}, "layout: cpu-x86/aoti/pp3.tp1 is no cut of the"),
        ({"built": "false"}, "built: Input should be a valid boolean (given: 'false')"),
        ({"batch": True}, "batch: Input should be a valid integer (given: True)"),
        ({"batch": 10**9}, "batch: Input should be less than or equal to 1024"),
        ({"target": ["cpu-x86"]}, "target: Input should be a valid string"),
        ({"placement": "x"}, "placement: Input should be 'PACK', 'STRICT_PACK' or 'SPREAD'"),
        ({"latency_ms": NONE}, "latency_ms: Input should be a finite number (given: nan)"),
        ({"stage_ms": [-1.0]}, "stage_ms[0]: Input should be greater than or equal to 0"),
        ({"bundles": [{"memory": 1.0}, {"CPU": INFINITE}, ONE]}, "bundles[1].CPU: Input should be"),
        ({"bundles": [{"memory": 1.0}, {"CPU": NONE}, ONE]}, "bundles[1].CPU: Input should be a"),
        ({"bundles": [{"memory": 1.0}, {"CPU": -5}, ONE]}, "bundles[1].CPU: Input should be great"),
        ({"bundles": [{"memory": 1.0}, {"CPU": 1e9}, ONE]}, "bundles[1].CPU: Input should be less"),
        ({"bundles": [{"memory": 1.0}, {"CPU": 0.5}, ONE]}, "bundles: must be [{"),
        ({"bundles": [{"CPU": 1.0, "GPU": 0.5}] * 3}, "bundles: must be [{"),
        ({"bundles": [ONE] * 50}, 'bundles: must be [{"memory": 1.0}, {"CPU": 1.0}, {"CPU": 1.0}]'),
        ({"bundles": []}, "bundles: must be"),
        ({"shards": []}, "shards: 0, of pipeline 2"),
        ({"colour": "red"}, "colour: Extra inputs are not permitted (given: 'red')"),
    ],
)
def test_a_field_that_is_wrong_is_named(
    refused: Refused, made: Path, tmp_path: Path, fields: dict[str, Any], said: str
) -> None:
    assert said in refused(edited(made, tmp_path / "wrong.json", **fields))


@pytest.mark.parametrize(
    ("weight_bytes", "said"), [(-(10**13), "greater than or equal to 0"), (10**15, "less than or")]
)
def test_memory_that_no_machine_has(
    refused: Refused, made: Path, tmp_path: Path, weight_bytes: int, said: str
) -> None:
    shards = [{**s, "weight_bytes": weight_bytes} for s in json.loads(made.read_text())["shards"]]
    text = refused(edited(made, tmp_path / "wrong.json", shards=shards))
    assert f"shards[0].weight_bytes: Input should be {said}" in text


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{}", f"{NOT_PRINTED}artifact: is missing; write it anew"),
        (b"[]", f"{NOT_PRINTED}Input should be an object"),
        (b'{"shards": 1}', f"{NOT_PRINTED}shards: Input should be a valid array (given: 1)"),
        (b"nonsense", f"{NOT_PRINTED}Invalid JSON"),
        (b"[" * 100_000, f"{NOT_PRINTED}Invalid JSON: recursion limit exceeded"),
        (b"\xff\xfe\x00", f"{NOT_PRINTED}Invalid JSON"),
        (b"", f"{NOT_PRINTED}Invalid JSON"),
    ],
)
def test_what_is_no_plan(refused: Refused, tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "wrong.json"
    path.write_bytes(content)
    assert said in refused(path)


@pytest.mark.parametrize(
    ("batch", "said"),
    [("1e400", "batch: Input should be a valid integer"), ("9" * 5000, "number out of range")],
)
def test_numbers_that_are_too_large(
    refused: Refused, made: Path, tmp_path: Path, batch: str, said: str
) -> None:
    path = tmp_path / "wrong.json"
    path.write_text(made.read_text().replace('"batch": 8', f'"batch": {batch}'))
    assert said in refused(path)


def test_a_path_that_is_none(refused: Refused, tmp_path: Path) -> None:
    assert "cannot be read: Is a directory" in refused(tmp_path)
    assert "cannot be read: embedded null byte" in refused(Path("a\0b"))


def test_a_plan_that_does_not_belong_to_the_artifact(
    headrace: Callable[..., Any], store: Path, plan: Callable[..., Path], tmp_path: Path
) -> None:
    made = plan("cut", "--devices", "2xcpu-x86", "--pipeline", "2")
    arguments = ("k8s", "render", "--image", DIGEST, "--plan")
    other = headrace(*arguments, made, "--model", "plain", "--store", store)
    assert other.status == 2
    assert "is of cut, not of plain; `headrace plan plain --json >" in other.err
    unbuilt = edited(made, tmp_path / "unbuilt.json", built=False)
    ran = headrace(*arguments, unbuilt, "--model", "cut", "--store", store)
    assert ran.status == 2
    assert "its cut is not built; add `parallel: [{pipeline: 2, tensor: 1}]`" in ran.err
    ran = headrace(*arguments, tmp_path / "none.json", "--model", "cut", "--store", store)
    assert (ran.status, "cannot be read: No such file" in ran.err) == (2, True)


def test_a_plan_of_an_artifact_that_was_built_anew(
    headrace: Callable[..., Any], store: Path, plan: Callable[..., Path], tmp_path: Path
) -> None:
    again = tmp_path / "other-store"
    publish(again, "cut", "cpu-x86", layout("cpu-x86", 2, 1, weight_bytes=41 * MIB))  # the same cut
    publish(again, "plain", "cpu-x86", size_bytes=81 * MIB)
    cut = plan("cut", "--devices", "2xcpu-x86", "--pipeline", "2")
    whole = plan("plain", "--devices", "1xcpu-x86")
    for name, path in (("cut", cut), ("plain", whole)):
        arguments = ("k8s", "render", "--image", DIGEST, "--plan", path, "--model", name)
        ran = headrace(*arguments, "--store", store)
        assert ran.status == 0, ran.err
        ran = headrace(*arguments, "--store", again)
        assert ran.status == 2
        ids = [str(LocalStore(each).open(name).id)[:12] for each in (store, again)]
        assert (
            f"is of another build of {name}: of the artifact {ids[0]}, not of {ids[1]}; "
            f"`headrace plan {name} --json > {path}`" in ran.err
        )

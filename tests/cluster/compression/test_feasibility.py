"""Faults of a build that are known before any computation end it at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.artifact.local import LocalStore
from cluster.compression import feasibility, job
from cluster.config.recipe import Recipe
from cluster.errors import CompressionError
from cluster.program import node

Make = Callable[..., Recipe]
Bench = Callable[..., Any]


@pytest.fixture
def without_data(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: object) -> None:
        raise AssertionError("the data is read before the recipe is checked")

    monkeypatch.setattr(job, "load_data", load)


@pytest.mark.usefixtures("without_data")
@pytest.mark.parametrize(
    ("scheme", "kind", "message"),
    [
        ("static_int8", "eager", r"cpu-x86/eager cannot be built.*no operators for static_int8"),
        ("float8", "aoti", "float8 matrix products need CUDA"),
    ],
)
def test_scheme_that_no_program_can_hold_ends_job_at_once(
    tiny_recipe: Make, tmp_path: Path, scheme: str, kind: str, message: str
) -> None:
    recipe = tiny_recipe("r", scheme, programs=[{"kinds": [kind]}])
    with pytest.raises(CompressionError, match=message):
        job.run(recipe, LocalStore(tmp_path), lambda line: None)


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (
            [{"kind": "quantize", "scheme": "static_int8", "keep": ["nothing"]}],
            r"quantize\.keep: no layer is called 'nothing'",
        ),
        (
            [{"kind": "prune", "method": "magnitude", "ratio": 0.5, "spare": ["nothing"]}],
            r"steps\[0\]\.spare: no layer is called 'nothing'",
        ),
        (
            [{"kind": "quantize", "scheme": "weight_only_int8"}],
            "weight_only_int8 quantized none of this model's operators",
        ),
    ],
)
def test_step_without_its_layers_is_rejected_before_training(
    bench: Bench, steps: list[dict], message: str
) -> None:
    initial = bench(steps=steps)
    model = initial.job.model
    if "weight_only_int8" in message:
        model.module[6] = model.module[8] = initial.work.module[0]  # no linear layer is left
    with pytest.raises(CompressionError, match=message):
        feasibility.check_model(initial.recipe, model)


def test_full_disk_is_reported_before_training(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    initial = bench()
    module = initial.work.module
    feasibility.check_disk(initial.recipe, module, tmp_path)
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(feasibility.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(CompressionError, match=r"has 1.* free, and the build needs .* at least"):
        feasibility.check_disk(initial.recipe, module, tmp_path)


@pytest.mark.parametrize(
    ("features", "scheme", "warned"),
    [
        ({"avx2"}, "static_int8", True),
        ({"avx2"}, "dynamic_int8", True),
        ({"avx2"}, "bf16", False),
        ({"avx2", "avx_vnni"}, "static_int8", False),
        ({"avx512f", "avx512_vnni"}, "static_int8", False),
    ],
)
def test_cpu_without_vnni_is_warned_of_before_int8(
    tiny_recipe: Make,
    monkeypatch: pytest.MonkeyPatch,
    features: set[str],
    scheme: str,
    warned: bool,
) -> None:
    monkeypatch.setattr(node, "cpu_features", lambda: frozenset(features))
    monkeypatch.setattr(node, "cpu_name", lambda: "Z80")
    lines: list[str] = []
    feasibility.check_recipe(tiny_recipe("r", scheme, programs=[{}]), lines.append)
    assert [line.startswith(f"warning  {scheme} may lose accuracy") for line in lines] == (
        [True] if warned else []
    )
    assert not warned or "this CPU (Z80) has no VNNI" in lines[0]

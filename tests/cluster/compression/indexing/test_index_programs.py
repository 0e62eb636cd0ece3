"""Compiled programs refuse an index out of range as eager PyTorch does, and their process lives."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lookups import COMPUTED, DIRECT, Lookup
from safetensors.torch import save_file

from cluster.artifact.artifact import MANIFEST, Artifact, describe
from cluster.artifact.manifest import Manifest
from cluster.compression.indexing import checked_work
from cluster.compression.programs import builder
from cluster.compression.work import Work
from cluster.config.recipe import ProgramBuild
from cluster.errors import CompressionError, RequestError
from cluster.tensors import IndexRange, TensorSpec
from headrace.model import load

X = TensorSpec(name="x", datatype="INT64", shape=(-1, 3))
ROWS = [[1, 0, 3], [9, 9, 9], [-1, 0, 0], [0, -1, 0], [0, 10, 0], [0, 0, 99], [0, 0, 2**32 + 5]]
Build = Callable[..., Artifact]

RUN = """
import json, sys
import numpy as np
import headrace
model = headrace.load(sys.argv[1])
for row in json.loads(sys.argv[2]):
    try:
        print(json.dumps(list(model.run(np.array([row])).values())[0].tolist()))
    except headrace.RequestError as error:
        print(json.dumps(str(error)))
"""


@pytest.fixture
def built(bench: Callable[..., Any], tmp_path: Path) -> Build:
    """Return ``built(function, kind)``: the artifact of a Lookup, with one program."""

    def build(function: Callable[..., torch.Tensor], kind: str) -> Artifact:
        initial = bench()
        programs = (ProgramBuild.model_validate({"kinds": [kind]}),)
        job = replace(initial.job, recipe=initial.recipe.model_copy(update={"programs": programs}))
        work = Work.of(Lookup(function).eval(), (X,))
        folder = tmp_path / "artifact"
        folder.mkdir()
        save_file(work.weights(), folder / "weights.safetensors")
        result = builder.build(work, folder, job)
        manifest = Manifest(
            name="lookup",
            recipe={},
            recipe_key="0" * 64,
            inputs=(X,),
            outputs=(TensorSpec(name="values", datatype="FP32", shape=(-1, 4)),),
            image=None,
            text=None,
            labels=(),
            files={
                str(path.relative_to(folder)): describe(path)
                for path in folder.rglob("*")
                if path.is_file()
            },
            programs=result.entries,
            quantized_operators=0,
            index_limits=result.index_limits,
        )
        (folder / MANIFEST).write_bytes(manifest.to_json())
        return Artifact.read(folder)

    return build


def compare(function: Callable[..., torch.Tensor], answers: list[Any]) -> None:
    """Compare answers, outputs or error texts, with eager PyTorch's for :data:`ROWS`."""
    module, refused = Lookup(function).eval(), 0
    for row, response in zip(ROWS, answers, strict=True):
        try:
            expected = module(torch.tensor([row]))
        except (IndexError, RuntimeError):
            refused += 1
            assert isinstance(response, str), row
        else:
            assert not isinstance(response, str), (row, response)
            np.testing.assert_allclose(np.array(response), expected.detach().numpy(), rtol=1e-5)
    assert 0 < refused < len(ROWS)


def answers_here(artifact: Artifact) -> list[Any]:
    model, answers = load(artifact), list[Any]()
    for row in ROWS:
        try:
            answers.append(model.run(np.array([row]))["values"].tolist())
        except RequestError as error:
            answers.append(str(error))
    return answers


@pytest.mark.parametrize(
    "function",
    [
        DIRECT["embedding of columns"],
        DIRECT["take"],
        DIRECT["one_hot"],
        DIRECT["gather"],
        COMPUTED["scaled float"],
        lambda m, x: m.table[x.clamp(-99, 99)],
    ],
)
def test_openvino_program_refuses_index(
    built: Build, function: Callable[..., torch.Tensor]
) -> None:
    pytest.importorskip("openvino")
    compare(function, answers_here(built(function, "openvino")))


def test_openvino_program_refuses_integers_beyond_32_bits(built: Build) -> None:
    pytest.importorskip("openvino")
    model = load(built(lambda m, x: x.float() + m.table[:, 0].sum(), "openvino"))
    assert model.run(np.array([[2**31 - 1, 0, -(2**31)]]))["values"].shape == (1, 3)
    with pytest.raises(RequestError, match=r"input x holds 4294967301, .* 32 bits"):
        model.run(np.array([[0, 0, 2**32 + 5]]))


def test_exported_program_refuses_computed_index(built: Build) -> None:
    compare(COMPUTED["product"], answers_here(built(COMPUTED["product"], "exported")))


@pytest.mark.slow  # a minute of compilation; the graphs' checks are tested in test_index_checks.py
@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: m.embedding(x[:, 0]) + m.embedding((x[:, 1] * 2 - x[:, 2].float()).long()),
        lambda m, x: m.table[x * 3].sum(1) + (x[:, :1] // (x[:, 1:2] + 1)),
    ],
)
def test_compiled_program_refuses_index_and_process_lives(
    built: Build, function: Callable[..., torch.Tensor]
) -> None:
    artifact = built(function, "aoti")
    ended = subprocess.run(
        [sys.executable, "-c", RUN, str(artifact.path), json.dumps(ROWS)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr
    compare(function, [json.loads(line) for line in ended.stdout.splitlines()])


@pytest.mark.parametrize(
    ("function", "kind", "reason"),
    [
        (COMPUTED["product"], "openvino", "computes in 32; use aoti, or clamp"),
        (
            lambda m, x: m.table[x[0, 0].item()].expand(x.shape[0], -1),
            "openvino",
            "reads a number out of a tensor that depends on the inputs",
        ),
    ],
)
def test_kind_that_cannot_be_safe_is_not_built(
    built: Build, function: Callable[..., torch.Tensor], kind: str, reason: str
) -> None:
    with pytest.raises(CompressionError, match=reason):
        built(function, kind)


def test_text_model_has_limits_and_keeps_openvino() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.RobertaConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        vocab_size=100,
        max_position_embeddings=20,
    )
    ids, mask = (
        TensorSpec(name=name, datatype="INT64", shape=(-1, 8))
        for name in ("input_ids", "attention_mask")
    )

    class Encoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = transformers.RobertaModel(config)

        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            states: torch.Tensor = self.encoder(ids, mask)[0]
            return states

    checked = checked_work.of(Work.of(Encoder().eval(), (ids, mask)))
    assert checked.limits.ranges() == {"input_ids": (IndexRange(start=0, stop=8, high=99),)}
    assert builder.BUILDERS["openvino"].endangers(checked, "cpu-x86") is None

"""A replica's check of its program: other outputs than the measured ones are refused."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from cluster.artifact.artifact import Artifact
from cluster.artifact.entries import ProgramEntry
from cluster.errors import ProgramError
from cluster.program import node, program

TARGET = "cpu-x86"


@dataclass
class Changed:
    """Program whose outputs another CPU changes."""

    inner: Any
    change: Callable[[np.ndarray], np.ndarray]

    @property
    def entry(self) -> ProgramEntry:
        return self.inner.entry  # type: ignore[no-any-return]

    @property
    def runner(self) -> str:
        return self.inner.runner  # type: ignore[no-any-return]

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [self.change(output) for output in self.inner.run(inputs)]


@pytest.fixture
def on_other_cpu(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that changes the outputs of programs of some kinds."""

    def change(kinds: Sequence[str], change: Callable[[np.ndarray], np.ndarray]) -> None:
        for kind in kinds:
            usual = program.PROGRAM_KINDS[kind]

            def load(*args: Any, usual: program.ProgramKind = usual) -> Any:
                return Changed(usual.load(*args), change)

            monkeypatch.setitem(program.PROGRAM_KINDS, kind, replace(usual, load=load))

    return change


def fastest(artifact: Artifact) -> str:
    return artifact.manifest.fastest[TARGET]


def test_artifact_stores_outputs_of_each_program(int8_artifact: Artifact) -> None:
    assert len(int8_artifact.manifest.programs) > 1
    for entry in int8_artifact.manifest.programs:
        stored = entry.self_check
        assert stored is not None
        assert set(stored.cpu_features) == node.cpu_features()
        assert 2e-3 <= stored.limit < 0.5
        loaded = program.load_entry(int8_artifact, entry, 1)
        with np.load(int8_artifact.file(stored.file)) as arrays:
            outputs = loaded.run([arrays["input0"]])[0]
            # Logits of the digits' ten classes differ by several units.
            np.testing.assert_allclose(outputs, arrays["output0"], atol=0.05)
            assert arrays["output0"].std() > 0.5
            assert 1 <= len(outputs) <= 4


def test_measured_program_is_loaded_without_a_word(
    int8_artifact: Artifact, caplog: pytest.LogCaptureFixture
) -> None:
    loaded = program.load(int8_artifact, 1)
    assert loaded.entry.kind == fastest(int8_artifact)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_next_program_is_taken_if_outputs_differ(
    int8_artifact: Artifact, on_other_cpu: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    first = fastest(int8_artifact)
    on_other_cpu([first], lambda logits: logits * 1.5)  # as sums that saturate
    loaded = program.load(int8_artifact, 1)
    assert loaded.entry.kind != first
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert f"{TARGET}/{first}: its outputs for" in record.getMessage()


def test_program_within_the_limit_is_kept(
    int8_artifact: Artifact, on_other_cpu: Callable[..., None]
) -> None:
    on_other_cpu([fastest(int8_artifact)], lambda logits: logits * (1 + 1e-4))
    assert program.load(int8_artifact, 1).entry.kind == fastest(int8_artifact)


@pytest.mark.parametrize("change", [lambda logits: -logits, lambda logits: logits * np.nan])
def test_artifact_without_right_program_is_refused(
    int8_artifact: Artifact,
    on_other_cpu: Callable[..., None],
    change: Callable[[np.ndarray], np.ndarray],
) -> None:
    on_other_cpu([entry.kind for entry in int8_artifact.manifest.programs], change)
    with pytest.raises(ProgramError, match=r"differ from those that were measured by .* expected"):
        program.load(int8_artifact, 1)


def test_other_instruction_set_is_reported(
    int8_artifact: Artifact, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    openvino = next(e for e in int8_artifact.manifest.programs if e.kind == "openvino")
    only = Artifact(
        path=int8_artifact.path,
        manifest=int8_artifact.manifest.model_copy(update={"programs": (openvino,)}),
        id=int8_artifact.id,
    )
    fewer = node.cpu_features() - {"avx2"}
    monkeypatch.setattr(node, "cpu_features", lambda: fewer)
    program.load(only, 1)
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "this CPU lacks avx2, with which it was measured" in record.getMessage()

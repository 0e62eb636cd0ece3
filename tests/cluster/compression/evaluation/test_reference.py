"""Comparison of a compiled program with its module."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cluster.artifact.entries import ProgramEntry
from cluster.compression.evaluation import one_program, reference
from cluster.errors import CompressionError

LOGITS = np.random.default_rng(0).normal(size=(16, 10)).astype(np.float32)
INPUTS = [np.arange(32, dtype=np.float32).reshape(16, 2), np.ones((16, 3), np.int64)]


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    file = tmp_path / "expected.npz"
    reference.record(LOGITS, INPUTS, file)
    return file


def test_program_receives_recorded_inputs_and_passes(recorded: Path) -> None:
    seen: list[np.ndarray] = []

    def run(arrays: list[np.ndarray]) -> np.ndarray:
        seen.extend(arrays)
        return LOGITS + np.float32(0.01)

    assert reference.check(run, recorded) < 0.02
    for array, input_array in zip(seen, INPUTS, strict=True):
        np.testing.assert_array_equal(array, input_array, strict=True)


@pytest.mark.parametrize(
    "answer", [np.roll(LOGITS, 1, axis=1), np.zeros_like(LOGITS), np.full_like(LOGITS, np.nan)]
)
def test_answers_of_another_model_are_rejected(recorded: Path, answer: np.ndarray) -> None:
    with pytest.raises(CompressionError, match="does not compute the model"):
        reference.check(lambda _: answer, recorded)


def test_difference_ignores_constant_added_to_logits() -> None:
    far = LOGITS + np.float32(1000)
    assert reference.difference(far, far) == 0
    assert reference.difference(np.roll(far, 1, axis=1), far) > 1


def test_fixed_batches_are_padded_and_each_is_compared(recorded: Path) -> None:
    sizes: list[int] = []

    def run(arrays: list[np.ndarray]) -> np.ndarray:
        sizes.append(len(arrays[0]))
        rows = [int(np.flatnonzero((INPUTS[0] == row).all(axis=1))[0]) for row in arrays[0]]
        return LOGITS[rows]

    assert reference.check(run, recorded, 5) == 0
    assert sizes == [5, 5, 5, 5]
    sizes.clear()
    assert reference.check(run, recorded, 32) == 0
    assert sizes == [32]
    with pytest.raises(CompressionError, match="does not compute the model"):
        reference.check(lambda arrays: np.roll(run(arrays), 1, axis=0), recorded, 5)


def test_difference_of_one_output_is_relative_to_the_samples() -> None:
    numbers = np.linspace(100, 102, 16, dtype=np.float32)[:, None]
    spread = float(np.linalg.norm(numbers - numbers.mean()))
    found = reference.difference(numbers + np.float32(0.01), numbers)
    assert found == pytest.approx(0.01 * 4 / spread, rel=1e-2)
    assert reference.difference(np.flip(numbers, 0), numbers) > 1


@pytest.mark.parametrize("wrong", [0, 1, 16])
def test_program_is_compared_alone_and_in_a_batch(
    recorded: Path, monkeypatch: pytest.MonkeyPatch, wrong: int
) -> None:
    def run(arrays: list[np.ndarray]) -> list[np.ndarray]:
        rows = [np.flatnonzero((INPUTS[0] == row).all(axis=1)) for row in arrays[0]]
        answers = np.stack([LOGITS[row[0] if len(row) else 0] for row in rows])
        return [-answers if len(answers) == wrong else answers]

    entry = ProgramEntry.model_construct(static_files=(), quantized_operators=4, target="cpu-x86")
    task: Any = SimpleNamespace(
        expected=recorded,
        mates=("zeros",),
        recipe=SimpleNamespace(
            evaluation=SimpleNamespace(compute_threads=1, largest_batch=8),
            model=SimpleNamespace(max_batch_size=None),
        ),
    )
    monkeypatch.setattr(
        one_program.programs, "load_entry", lambda *_: SimpleNamespace(run=run, entry=entry)
    )
    artifact: Any = None
    if wrong == 0:
        assert one_program._load(artifact, entry, task)[1] is None
        return
    with pytest.raises(CompressionError, match="does not compute the model"):
        one_program._load(artifact, entry, task)

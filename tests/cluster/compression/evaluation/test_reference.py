"""Comparison of a compiled program with the module that it was made from."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cluster.artifact.entries import ProgramEntry
from cluster.compression.evaluation import loading, reference
from cluster.compression.evaluation.reference import Outputs
from cluster.compression.probes import Probes, difference
from cluster.errors import CompressionError

LOGITS = np.random.default_rng(0).normal(size=(16, 10)).astype(np.float32)
INPUTS = [np.arange(32, dtype=np.float32).reshape(16, 2), np.ones((16, 3), np.int64)]


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    file = tmp_path / "expected.npz"
    reference.write([LOGITS], INPUTS, 1.0, file)
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
    assert difference([far], [far]) == 0
    assert difference([np.roll(far, 1, axis=1)], [far]) > 1


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
    found = difference([numbers + np.float32(0.01)], [numbers])
    assert found == pytest.approx(0.01 * 4 / spread, rel=1e-2)
    assert difference([np.flip(numbers, 0)], [numbers]) > 1


@pytest.mark.parametrize("wrong", [0, 1, 16])
def test_program_is_compared_alone_and_in_a_batch(
    recorded: Path, monkeypatch: pytest.MonkeyPatch, wrong: int
) -> None:
    def run(arrays: list[np.ndarray]) -> list[np.ndarray]:
        rows = [np.flatnonzero((INPUTS[0] == row).all(axis=1)) for row in arrays[0]]
        answers = np.stack([LOGITS[row[0] if len(row) else 0] for row in rows])
        return [-answers if len(answers) == wrong else answers]

    entry = ProgramEntry.model_construct(static_files=(), quantized_operators=4, target="cpu-x86")
    recipe: Any = SimpleNamespace(
        evaluation=SimpleNamespace(compute_threads=1, largest_batch=8),
        model=SimpleNamespace(max_batch_size=None),
    )
    monkeypatch.setattr(
        loading.programs, "load_entry", lambda *_: SimpleNamespace(run=run, entry=entry)
    )
    artifact: Any = None
    files = Outputs(recorded, recorded.with_name("computed.npz"))
    if wrong == 0:
        assert loading._load(artifact, entry, files, recipe, ("zeros",)).static is None
        return
    with pytest.raises(CompressionError, match="does not compute the model"):
        loading._load(artifact, entry, files, recipe, ("zeros",))


def test_difference_is_share_of_distance_from_mean() -> None:
    expected = np.array([[1.0], [3.0], [5.0]])
    assert difference([np.full((3, 1), 3.0)], [expected]) == pytest.approx(1)
    assert difference([expected + 0.004], [expected]) == pytest.approx(0.004 * 3**0.5 / 8**0.5)
    masks = np.random.default_rng(0).normal(size=(3, 2, 4, 4))
    shifted = masks.copy()
    shifted[0, 0, 0, 0] += 1
    spread = np.linalg.norm(masks - masks.mean(axis=0))
    assert difference([masks, shifted], [masks, masks]) == pytest.approx(1 / spread)


def test_rounding_is_measured_by_outputs_that_hardly_differ_between_items() -> None:
    alike = LOGITS[:1] + 1e-3 * LOGITS  # as of random weights
    rounded = alike * np.float32(1.01)
    assert difference([rounded], [alike]) > 1
    assert difference([rounded], [alike], rounded=True) == pytest.approx(0.01, rel=0.5)


def test_difference_of_other_shape_or_nan_is_no_number_of_rounding() -> None:
    assert difference([LOGITS[:, :5]], [LOGITS]) == np.inf
    assert not difference([np.full_like(LOGITS, np.nan)], [LOGITS]) <= 1
    broken = LOGITS.copy()
    broken[3] = np.inf  # of the model itself, for noise
    assert difference([LOGITS], [broken]) == 0


@pytest.mark.parametrize(
    ("scheme", "target", "limit", "items"),
    [
        (None, "cpu-x86", 1e-3, 16),
        (None, "cuda-sm90", 0.05, 16),
        ("bf16", "cpu-x86", 0.25, 10),
        ("static_int8", "cpu-x86", 1.0, 10),
    ],
)
def test_limit_follows_from_precision_and_noise_is_for_float(
    tmp_path: Path, scheme: str | None, target: str, limit: float, items: int
) -> None:
    file = tmp_path / "expected.npz"
    most = reference.limit_of(scheme, target)
    assert most == limit
    reference.record([LOGITS], Probes(tuple(INPUTS), 10), most, file)
    assert len(reference.inputs_of(file)[0]) == items
    inside, outside = (
        lambda arrays, share=share: (LOGITS + share * np.std(LOGITS))[: len(arrays[0])]
        for share in (limit * 0.5, limit * 2)
    )
    assert 0 < reference.check(inside, file) < limit
    with pytest.raises(CompressionError, match=f"expected {limit:g} at most"):
        reference.check(outside, file)


def test_other_forms_of_a_program_are_compared_with_its_own_outputs(
    recorded: Path, tmp_path: Path
) -> None:
    own = tmp_path / "computed.npz"
    rounded = LOGITS * np.float32(1.5)  # within the limit of a quantized program
    assert reference.check_and_record(lambda _: rounded, recorded, own) == pytest.approx(0.5, 0.1)
    assert reference.check(lambda _: rounded, own) == 0
    with pytest.raises(CompressionError, match=r"expected 0\.25 at most"):
        reference.check(lambda _: LOGITS, own)


def test_outputs_of_single_items_are_compared_with_those_of_a_batch(
    recorded: Path, tmp_path: Path
) -> None:
    """OpenVINO's int8 attention is right in the first eight rows of a batch alone."""
    own = tmp_path / "computed.npz"
    rows = iter(range(len(LOGITS)))

    def right_alone(arrays: list[np.ndarray]) -> np.ndarray:
        if len(arrays[0]) == 1:
            index = next(rows)
            return LOGITS[index : index + 1]
        wrong = LOGITS.copy()
        wrong[8:] = LOGITS[8:] * -0.2
        return wrong

    reference.check_and_record(right_alone, recorded, own)
    assert reference.apart(right_alone, own) > reference.MAX_ROUNDING
    reference.check_and_record(lambda _: LOGITS, recorded, own)
    rows = iter(range(len(LOGITS)))
    assert reference.apart(right_alone, own) < 1e-6

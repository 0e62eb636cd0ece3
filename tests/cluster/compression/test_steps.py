"""Steps of a recipe: order, reported costs, and cached training of equal first steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from cluster.compression import steps
from cluster.compression.record import StepRecord
from cluster.config.steps import Prune, Quantize, ReplaceActivation, Train
from cluster.errors import CompressionError

Bench = Callable[..., Any]
TRAIN = Train(kind="train", epochs=1)


def cached(records: Sequence[StepRecord]) -> str:
    """Return the log line of a cached training with its scores, from the records of the first."""
    before, after = records[0].before.value, records[0].after.value
    return (
        "train    train: cached result for this model, data and settings, "
        f"score {before:.4f} → {after:.4f}"
    )


def computed(lines: Sequence[str]) -> bool:
    return not any("cached result" in line for line in lines)


def test_cached_training_gives_the_same_weights(bench: Bench) -> None:
    first, second = bench(), bench()
    trained, records = steps.run_cached(first.work, (), [TRAIN], first.job)
    loaded, again = steps.run_cached(second.work, (), [TRAIN], second.job)
    assert computed(first.lines)
    assert second.lines == [cached(records)]
    torch.testing.assert_close(loaded.weights(), trained.weights(), rtol=0, atol=0)
    assert [record.kind for record in records] == ["train"]
    assert again == records


@pytest.mark.parametrize("damage", [b"", b"not a file of tensors", None])
def test_damaged_cache_file_is_rebuilt(bench: Bench, tmp_path: Path, damage: bytes | None) -> None:
    first, second, third = bench(), bench(), bench()
    initial, records = steps.run_cached(first.work, (), [TRAIN], first.job)
    (file,) = (tmp_path / "store" / "steps").iterdir()
    if damage is None:
        save_file(initial.weights(), file, {"records": "no JSON"})
    else:
        file.write_bytes(damage)
    again, others = steps.run_cached(second.work, (), [TRAIN], second.job)
    assert second.lines[0].startswith(f"train    train: repeated, because {file} is damaged")
    assert [record.kind for record in others] == [record.kind for record in records]
    torch.testing.assert_close(again.weights(), initial.weights(), rtol=0, atol=0)
    steps.run_cached(third.work, (), [TRAIN], third.job)
    assert third.lines == [cached(others)]


def test_other_metric_or_baseline_trains_again(bench: Bench) -> None:
    one = bench(model="linear")
    steps.run_cached(one.work, (), [TRAIN], one.job)
    measured = one.job.recipe.evaluation.model_copy(update={"metrics": ("cosine",)})
    source = one.job.recipe.model.model_copy(update={"num_classes": 10})
    for changed in ({"evaluation": measured}, {"model": source}):
        initial = bench(model="linear")
        recipe = initial.job.recipe.model_copy(update=changed)
        job = replace(initial.job, recipe=recipe)
        steps.run_cached(initial.work, (), [TRAIN], job)
        assert computed(initial.lines)


def test_other_settings_or_identity_train_again(bench: Bench, tmp_path: Path) -> None:
    cases = [
        ([TRAIN], "origin"),
        ([TRAIN], "another model"),
        ([Train(kind="train", epochs=1, learning_rate=0.01)], "origin"),
        ([TRAIN, TRAIN], "origin"),
    ]
    for chain, origin in cases:
        initial = bench(model="linear")
        steps.run_cached(initial.work, (), chain, replace(initial.job, identity=origin))
        assert computed(initial.lines)
    assert len(list((tmp_path / "store" / "steps").iterdir())) == len(cases)


def test_model_without_training_is_unchanged(bench: Bench, tmp_path: Path) -> None:
    initial = bench()
    assert steps.run_cached(initial.work, (), [], initial.job) == (initial.work, ())
    assert not (tmp_path / "store").exists()


def test_pruning_and_replaced_activations_are_cached(bench: Bench) -> None:
    prune = Prune(kind="prune", method="structured", ratio=0.5, round_to=4)
    gelu = ReplaceActivation(kind="replace_activation", old="relu", new="gelu")
    first, second = bench(), bench()
    initial, records = steps.run_cached(first.work, [TRAIN], [prune, gelu], first.job)
    loaded, again = steps.run_cached(second.work, [TRAIN], [prune, gelu], second.job)
    expected = "prune    prune structured 0.5, relu → gelu: cached result"
    assert second.lines[0].startswith(expected)
    torch.testing.assert_close(loaded.weights(), initial.weights(), rtol=0, atol=0)
    images = torch.from_numpy(first.test.batch(range(9))[0][0])
    torch.testing.assert_close(loaded.module(images), initial.module(images), rtol=0, atol=0)
    assert again == records
    third = bench()
    steps.run_cached(third.work, [], [prune, gelu], third.job)
    assert not any("already" in line for line in third.lines)


def test_steps_before_a_quantize_step_leave_float_weights() -> None:
    quantize = Quantize(kind="quantize", scheme="bf16")
    prune = Prune(kind="prune", method="structured", ratio=0.5)
    assert steps.float_steps([]) == 0
    assert steps.float_steps([prune, TRAIN, quantize]) == 2
    assert steps.float_steps([quantize, TRAIN]) == 0


def test_baseline_contains_only_initial_training() -> None:
    quantize = Quantize(kind="quantize", scheme="bf16")
    assert steps.leading_training([]) == 0
    assert steps.leading_training([quantize]) == 0
    assert steps.leading_training([TRAIN, TRAIN, quantize]) == 2
    assert steps.leading_training([TRAIN, quantize, TRAIN]) == 1


def test_every_step_reports_cost_and_gain(bench: Bench, tmp_path: Path) -> None:
    initial = bench()
    prune = Prune(kind="prune", method="structured", ratio=0.5, round_to=4)
    chain = [TRAIN, prune, TRAIN, Quantize(kind="quantize", scheme="bf16")]
    work, records = steps.run(initial.work, chain, initial.job)
    assert [record.title for record in records] == [
        "train",
        "prune structured 0.5",
        "train",
        "quantize bf16",
    ]
    trained, pruned, recovered, quantized = records
    assert trained.after.value > trained.before.value + 0.3
    assert pruned.before == trained.after
    assert pruned.size_after.macs < 0.6 * pruned.size_before.macs
    assert pruned.size_after.parameters < pruned.size_before.parameters
    assert recovered.after.value > pruned.after.value
    assert recovered.size_after.macs == pruned.size_after.macs == quantized.size_after.macs
    assert quantized.size_after.weight_bytes < 0.6 * quantized.size_before.weight_bytes
    assert work.quantized_operators == 4
    assert all(record.seconds > 0 for record in records)
    # Each step has a directory for files that must survive a kill.
    assert sorted(path.name for path in initial.job.checkpoints.iterdir()) == [
        "0-train",
        "1-prune",
        "2-train",
        "3-quantize",
    ]


class Auxiliary(torch.nn.Module):
    """Answers training data with the error of a layer, or of its own."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.head = Failing(error)
        self.last = torch.nn.Linear(256, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(self.last(image.flatten(1)))


class Failing(torch.nn.Module):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            raise self.error
        return x


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (KeyError("aux"), "KeyError: 'aux', in head (Failing); training calls forward in train"),
        (OSError("no file\nthere"), "OSError: no file, in head (Failing); training calls forward"),
        (MemoryError(), "MemoryError, in head (Failing); free memory, or use smaller batches"),
    ],
)
def test_error_in_a_step_names_layer_step_and_remedy(
    bench: Bench, error: Exception, sentence: str
) -> None:
    initial = bench(model="linear")
    work = replace(initial.work, module=Auxiliary(error).eval())
    with pytest.raises(CompressionError) as refusal:
        steps.run(work, [Train(kind="train", epochs=1)], initial.job)
    source = "python:headrace_tiny:linear"
    assert str(refusal.value).startswith(f"{source} fails in steps[0] (train): {sentence}")
    assert "\n" not in str(refusal.value)

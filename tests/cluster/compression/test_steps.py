"""Recipes that begin with the same training train once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from cluster.artifact.local import LocalStore
from cluster.compression import steps
from cluster.config.recipe import Quantize, Train

Bench = Callable[..., Any]
TRAIN = Train(kind="train", epochs=1)
ALREADY = "train    already done for this model, data and settings"


def test_the_same_training_is_done_once_and_gives_the_same_weights(
    bench: Bench, tmp_path: Path
) -> None:
    store = LocalStore(tmp_path / "store")
    first, second = bench(), bench()
    trained = steps.trained(first.work, [TRAIN], first.context, store, "origin", tmp_path)
    loaded = steps.trained(second.work, [TRAIN], second.context, store, "origin", tmp_path)
    assert ALREADY not in first.lines
    assert second.lines == [ALREADY]
    torch.testing.assert_close(loaded.weights(), trained.weights(), rtol=0, atol=0)


def test_other_settings_or_another_origin_train_anew(bench: Bench, tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    cases = [
        ([TRAIN], "origin"),
        ([TRAIN], "another model"),
        ([Train(kind="train", epochs=1, learning_rate=0.01)], "origin"),
        ([TRAIN, TRAIN], "origin"),
    ]
    for taken, origin in cases:
        made = bench(model="linear")
        steps.trained(made.work, taken, made.context, store, origin, tmp_path)
        assert ALREADY not in made.lines
    assert len(list((store.root / "steps").iterdir())) == len(cases)


def test_a_model_without_training_is_left_as_it_is(bench: Bench, tmp_path: Path) -> None:
    made = bench()
    store = LocalStore(tmp_path / "store")
    assert steps.trained(made.work, [], made.context, store, "origin", tmp_path) is made.work
    assert not store.root.exists()


def test_only_the_training_at_the_beginning_makes_the_baseline() -> None:
    quantize = Quantize(kind="quantize", scheme="bf16")
    assert steps.leading_training([]) == 0
    assert steps.leading_training([quantize]) == 0
    assert steps.leading_training([TRAIN, TRAIN, quantize]) == 2
    assert steps.leading_training([TRAIN, quantize, TRAIN]) == 1

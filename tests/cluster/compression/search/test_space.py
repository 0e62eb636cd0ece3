"""Combinations of a search space, and their steps."""

from __future__ import annotations

import pytest

from cluster.compression.search import space
from cluster.compression.search.space import UNCOMPRESSED, Combination, Leaf
from cluster.config.recipe import Recipe
from cluster.config.search import PruneSpace, SearchSpace
from cluster.config.steps import Distill, Prune, Quantize, Recovery, Train


def test_space_contains_each_combination_once() -> None:
    within = SearchSpace(
        prune=PruneSpace(ratios=(0.5, 0.2)),
        schemes=("none", "static_int8", "bf16"),
        keep_most_sensitive=(0, 2),
    )
    combinations = space.combinations(within)
    assert [combination.number for combination in combinations] == list(range(1, 12))
    assert {
        (combination.ratio, combination.leaf.scheme, combination.leaf.keep)
        for combination in combinations
    } == {
        (ratio, scheme, keep)
        for ratio in (None, 0.2, 0.5)
        for scheme, keep in (("none", 0), ("static_int8", 0), ("static_int8", 2), ("bf16", 0))
    } - {(None, "none", 0)}
    assert UNCOMPRESSED not in combinations


def test_space_without_pruning_has_one_combination_per_scheme() -> None:
    combinations = space.combinations(SearchSpace(prune=None, schemes=("none", "bf16")))
    assert combinations == (Combination(1, None, Leaf("bf16", 0)),)


HALF = Combination(1, 0.5, Leaf("static_int8", 2))


def test_structured_pruning_and_recovery_are_two_steps() -> None:
    within = SearchSpace(
        recovery=Recovery(epochs=3, learning_rate=0.5), prune=PruneSpace(round_to=4)
    )
    prune, train = space.float_steps(within, HALF, within.recovery)
    assert isinstance(prune, Prune)
    assert (prune.ratio, prune.round_to, prune.recovery) == (0.5, 4, None)
    assert isinstance(train, Train)
    assert (train.epochs, train.learning_rate) == (3, 0.5)
    assert space.float_steps(within, HALF, None) == (prune,)
    assert space.float_steps(within, UNCOMPRESSED, within.recovery) == ()


def test_distillation_is_a_recovery() -> None:
    within = SearchSpace(recovery=Distill(kind="distill", epochs=2))
    _, recovery = space.float_steps(within, HALF, within.recovery)
    assert recovery == within.recovery


def test_recovery_of_zeros_is_part_of_prune_step() -> None:
    within = SearchSpace(prune=PruneSpace(method="magnitude"))
    (prune,) = space.float_steps(within, HALF, within.recovery)
    assert isinstance(prune, Prune)
    assert prune.recovery == within.recovery
    assert prune.importance == Prune(kind="prune", method="magnitude", ratio=0.5).importance


def test_kept_layers_are_named_after_measurement() -> None:
    within = SearchSpace()
    unknown = space.quantize_step(within, HALF.leaf)
    assert isinstance(unknown, Quantize)
    assert (unknown.keep_most_sensitive, unknown.keep) == (2, ())
    known = space.quantize_step(within, HALF.leaf, ("b", "a", "c"))
    assert isinstance(known, Quantize)
    assert (known.keep_most_sensitive, known.keep) == (0, ("b", "a"))
    assert space.quantize_step(within, UNCOMPRESSED.leaf) is None


@pytest.mark.parametrize(
    ("recovery", "updates"),
    [
        (Recovery(epochs=2, batch_size=32), 3),  # of 2 · ⌈100 / 32⌉ = 8
        (Recovery(epochs=2, batch_size=32, updates=4), 2),
        (Distill(kind="distill", epochs=1, batch_size=64), 1),
    ],
)
def test_partial_recovery_is_share_of_updates(recovery: Recovery | Distill, updates: int) -> None:
    part = space.part_of(recovery, 1 / 3, 100)
    assert part.updates == updates
    assert part.model_copy(update={"updates": recovery.updates}) == recovery


def test_combination_is_valid_as_recipe_steps() -> None:
    within = SearchSpace()
    quantize = space.quantize_step(within, HALF.leaf)
    recipe_steps = (*space.float_steps(within, HALF, within.recovery), quantize)
    raw = {
        "name": "m",
        "model": {"source": "torchvision:resnet18"},
        "steps": [step.model_dump(mode="json") for step in recipe_steps if step],
    }
    assert Recipe.model_validate(raw).steps == recipe_steps
    assert space.title(within, HALF) == "prune structured 0.5 + static_int8, 2 layers in bf16"
    assert space.title(within, UNCOMPRESSED) == "uncompressed"

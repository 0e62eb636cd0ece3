"""Independence of the items of a batch: functions that pass, and reports of the others."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from cluster.errors import ProgramError
from cluster.independence import Inputs, find, noise, one_by_one
from cluster.tensors import TensorSpec

SPEC = TensorSpec(name="x", datatype="FP32", shape=(-1, 4))
Function = Callable[[np.ndarray], np.ndarray]


def inputs(*specs: TensorSpec) -> Inputs:
    return Inputs.of(next(iter(noise(specs or (SPEC,)))))


def run_of(function: Function) -> Callable[[list[np.ndarray]], list[np.ndarray]]:
    def run(arrays: list[np.ndarray]) -> list[np.ndarray]:
        with np.errstate(all="ignore"):
            return [function(arrays[0])]

    return run


@pytest.mark.parametrize(
    "function",
    [
        lambda x: 3 * x - 1,
        lambda x: x / np.abs(x).max(axis=1, keepdims=True),
        lambda x: np.zeros_like(x),
        # Rounding by another order of sums is far below the limit.
        lambda x: x * (1 + 1e-6 * len(x)),
        lambda x: 1000 + x * (1 + 1e-6 * len(x)),
    ],
)
def test_items_computed_by_themselves_pass(function: Function) -> None:
    assert find(run_of(function), inputs()) is None


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda x: x - x.mean(axis=0), "beside zeros, in a batch of 2"),
        (lambda x: np.sort(x, axis=0), "beside zeros, in a batch of 2"),
        (lambda x: x.cumsum(axis=0), "beside huge values, in a batch of 2"),
        (lambda x: x / max(1, np.abs(x).max()), "differs by"),
        (lambda x: x + np.arange(len(x))[:, None], "beside zeros, in a batch of 2"),
        (lambda x: x * (1 + (len(x) > 3)), "in a batch of 8"),
        (lambda x: x.reshape(1, -1)[:, :4], "for a batch of 2 it returns [1, 4]"),
    ],
)
def test_items_that_see_their_mates_are_reported(function: Function, reason: str) -> None:
    dependence = find(run_of(function), inputs())
    assert dependence is not None
    assert dependence.kind == "batch"
    assert reason in dependence.reason
    assert find(one_by_one(run_of(function)), inputs()) is None
    assert find(run_of(function), inputs(), largest=1) is None


def test_difference_is_a_share_of_the_spread() -> None:
    def function(x: np.ndarray) -> np.ndarray:
        return x + (0.5 if len(x) > 1 else 0)

    spread = np.concatenate([item[0] for item in inputs().items]).std()
    dependence = find(run_of(function), inputs())
    assert dependence is not None
    assert f"differs by {0.5 / spread:.3g} of the outputs' spread" in dependence.reason


def test_random_answers_are_reported() -> None:
    random = np.random.default_rng(0)
    dependence = find(run_of(lambda x: x + random.standard_normal(x.shape)), inputs(), largest=1)
    assert dependence is not None
    assert dependence.kind == "state"
    assert "two runs on the same input differ by" in dependence.reason


def test_answers_that_follow_earlier_ones_are_reported() -> None:
    sizes: list[int] = []

    def function(x: np.ndarray) -> np.ndarray:
        answer = x + (sizes.count(8) == 2)
        sizes.append(len(x))
        return answer

    dependence = find(run_of(function), inputs())
    assert dependence is not None
    assert dependence.kind == "state"
    assert "after other inputs" in dependence.reason


def test_first_input_that_decides_all_answers_is_reported() -> None:
    def first_decides() -> Function:
        first: list[np.ndarray] = []

        def function(x: np.ndarray) -> np.ndarray:
            first.append(x)
            return x - first[0].mean()

        return function

    assert find(run_of(first_decides()), inputs()) is None
    fresh = run_of(first_decides())
    dependence = find(run_of(first_decides()), inputs(), fresh=fresh)
    assert dependence is not None
    assert "after other inputs" in dependence.reason


def test_function_without_single_items_is_reported() -> None:
    def run(arrays: list[np.ndarray]) -> list[np.ndarray]:
        if len(arrays[0]) == 1:
            raise ProgramError("needs two")
        return arrays

    dependence = find(run, inputs())
    assert dependence is not None
    assert (dependence.kind, dependence.reason) == (
        "single",
        "it does not run on a batch of 1: needs two",
    )


def test_rounding_of_another_size_may_be_left_out() -> None:
    # A quantized program may round otherwise at another batch size, but not beside other mates.
    def rounded(x: np.ndarray) -> np.ndarray:
        return np.round(x, 3 - (len(x) > 1))

    assert find(run_of(rounded), inputs()) is not None
    assert find(run_of(rounded), inputs(), across=None) is None
    scaled = run_of(lambda x: np.round(x / np.abs(x).max()) * np.abs(x).max())
    dependence = find(scaled, inputs(), across=None)
    assert dependence is not None
    assert "from its answer beside zeros" in dependence.reason


def test_indices_stay_within_those_of_the_samples() -> None:
    samples = np.array([[0, 3], [4, 1], [2, 2]])
    chosen = Inputs.of([samples])
    values = np.concatenate([item[0] for item in (*chosen.items, *chosen.mates.values())])
    assert values.max(axis=0).tolist() == [4, 3]
    assert values.min() == 0


def test_mates_that_a_model_cannot_take_are_left_out() -> None:
    def run(arrays: list[np.ndarray]) -> list[np.ndarray]:
        if np.abs(arrays[0]).max() > 100:
            raise ProgramError("no such index")
        return arrays

    assert [*inputs().accepted(run).mates] == ["zeros", "copies of itself", "other items"]

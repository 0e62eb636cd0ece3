"""A value of an input is refused if and only if eager PyTorch refuses it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from lookups import COMPUTED, DIRECT, Lookup

from cluster.artifact.entries import IndexCheck
from cluster.compression.indexing import checked_work
from cluster.compression.indexing.checked import checks_of
from cluster.compression.indexing.checked_work import CheckedWork
from cluster.compression.work import Work
from cluster.errors import HeadraceError, RequestError
from cluster.program.index_checks import outputs_of
from cluster.protocol.indices import IndexLimits
from cluster.tensors import TensorSpec

VALUES = (0, 1, 3, 4, 9, 10, 11, 99, -1, -6, -10, -11, -40, -41, 2**31, 2**32 + 5, 2**62, -(2**63))
FLOATS = (0.0, 3.7, 9.99, 10.0, -0.5, -1.0, 1e10, float("nan"), float("inf"), float("-inf"))


def spec(datatype: str = "INT64") -> TensorSpec:
    return TensorSpec(name="x", datatype=datatype, shape=(-1, 3))


def checked(function: Callable[..., torch.Tensor], datatype: str = "INT64") -> CheckedWork:
    return checked_work.of(Work.of(Lookup(function).eval(), (spec(datatype),)))


def answer(work: CheckedWork, array: np.ndarray) -> torch.Tensor | HeadraceError:
    """Return the output for a batch, or the refusal, as a replica finds them."""
    try:
        IndexLimits(work.work.inputs, work.limits.ranges()).check([array])
        with torch.inference_mode():
            outputs = work.work.module(torch.from_numpy(array))
        if checks := checks_of(work.work.module):
            return torch.from_numpy(outputs_of([o.numpy() for o in outputs], checks)[0])
        return outputs
    except RequestError as error:
        return error


def compare(function: Callable[..., torch.Tensor], work: CheckedWork, arrays: list[Any]) -> None:
    """Compare with eager PyTorch on each array: equal outputs, or a refusal by both."""
    module, refused = Lookup(function).eval(), 0
    for array in arrays:
        response = answer(work, array)
        try:
            expected = module(torch.from_numpy(array))
        except (IndexError, RuntimeError):
            expected = None
        if expected is None:
            refused += 1
            assert isinstance(response, RequestError), array
        else:
            assert isinstance(response, torch.Tensor), (array, response)
            torch.testing.assert_close(response, expected)
    assert refused < len(arrays), "nothing was computed"


def rows(values: tuple[Any, ...], dtype: Any) -> list[np.ndarray]:
    """Return batches of two items with each value at each place of the second one."""
    arrays = []
    for value in values:
        for place in range(3):
            array = np.array([[1, 2, 3], [1, 1, 1]], dtype)
            array[1, place] = value
            arrays.append(array)
    return arrays


@pytest.mark.parametrize("name", DIRECT)
def test_element_of_input_is_refused_as_in_eager(name: str) -> None:
    work = checked(DIRECT[name])
    assert work.limits.ranges()
    assert all(check.operator != "embedding" for check in checks_of(work.work.module))
    compare(DIRECT[name], work, rows(VALUES, np.int64))


@pytest.mark.parametrize("name", COMPUTED)
def test_computed_index_is_refused_as_in_eager(name: str) -> None:
    work = checked(COMPUTED[name])
    assert checks_of(work.work.module)
    assert work.unchecked is None
    # Eager PyTorch itself ends at the lowest integer divided by -1.
    values = VALUES[:-1] if "divi" in name or "by" in name else VALUES
    compare(COMPUTED[name], work, rows(values, np.int64))


def test_index_modulo_the_size_is_never_refused() -> None:
    def function(m: Any, x: torch.Tensor) -> torch.Tensor:
        return torch.take_along_dim(m.table[:, :1].t(), x, 1)

    compare(function, checked(function), rows(VALUES, np.int64))


@pytest.mark.parametrize("convert", ["element", "scaled"])
def test_float_index_is_refused_as_in_eager(convert: str) -> None:
    function = {
        "element": lambda m, x: m.embedding(x[:, 1:].long()),
        "scaled": lambda m, x: m.embedding((x * 1.5).long()),
    }[convert]
    work = checked(function, "FP32")
    assert bool(work.limits.ranges()) == (convert == "element")
    compare(function, work, rows(FLOATS, np.float32))


@pytest.mark.parametrize("datatype", ["UINT8", "INT8", "INT16", "INT32"])
def test_narrow_integers_are_refused_as_in_eager(datatype: str) -> None:
    def function(m: Any, x: torch.Tensor) -> torch.Tensor:
        return m.embedding(x[:, 0].long()) + m.embedding(x[:, 1].int())

    work = checked(function, datatype)
    limits = np.iinfo(spec(datatype).dtype)
    compare(function, work, rows((0, 9, 10, limits.min, limits.max), spec(datatype).dtype))


def test_refusal_names_input_value_and_range() -> None:
    work = checked(DIRECT["offsets"])
    refusal = answer(work, np.array([[0, 0, 0], [0, 9, 0]]))
    assert str(refusal) == "input x holds 9 at [1, 1], this model accepts -3 to 6 there"
    work = checked(COMPUTED["product"])
    refusal = answer(work, np.array([[0, 0, 0], [0, 9, 0]]))
    assert str(refusal) == "embedding gets index 27, computed from x; this model accepts 0 to 9"
    refusal = answer(checked(COMPUTED["floor division"]), np.array([[1, 0, 1]]))
    assert str(refusal) == "floor_divide divides by 0, computed from x; send other values"


def test_check_marks_only_the_item_at_fault() -> None:
    work = checked(COMPUTED["product"])
    _, marks = work.work.module(torch.tensor([[0, 1, 2], [0, -9, 0], [3, 3, 3]]))
    assert marks.tolist() == [0, -27, 0]
    # Where items cannot be told apart, every one is marked, and each request runs again alone.
    work = checked(lambda m, x: m.embedding((x + x).flatten()).view(x.shape[0], -1))
    _, marks = work.work.module(torch.tensor([[0, 1, 2], [0, 9, 0]]))
    assert marks.tolist() == [19, 19]


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda m, x: m.table[x[0, 0].item()].expand(x.shape[0], -1), "reads a number"),
        (
            lambda m, x: functional_loss(x),
            "nll_loss_nd may read its argument target as indices",
        ),
        (lambda m, x: m.bag(torch.arange(3), x[0]).sum(0).expand(x.shape[0], 4), "offsets"),
    ],
)
def test_index_that_no_check_covers_is_named(
    function: Callable[..., torch.Tensor], reason: str
) -> None:
    work = checked(function)
    assert work.unchecked is not None
    assert reason in work.unchecked


def functional_loss(x: torch.Tensor) -> torch.Tensor:
    scores = torch.zeros(x.shape[0], 10)
    return torch.nn.functional.nll_loss(scores, x[:, 0], reduction="none")


@pytest.mark.parametrize(
    ("name", "wide"),
    [
        ("product", True),
        ("remainder", True),
        ("argmax", True),
        ("clamped", False),
        ("bucketize", False),
        ("positions", False),
        ("scaled float", False),
    ],
)
def test_index_of_unlimited_wide_integers_is_marked(name: str, wide: bool) -> None:
    assert (checked(COMPUTED[name]).wide is not None) == wide


def test_part_of_model_checks_what_crosses_its_cut() -> None:
    whole = checked(DIRECT["embedding of all"])
    work = Work.of(Lookup(DIRECT["embedding of all"]).eval(), (spec(),))
    assert checks_of(checked_work.of(work, limits=whole.limits).work.module) == ()
    crossing = (TensorSpec(name="view", datatype="INT64", shape=(-1, 3)),)
    part = checked_work.of(Work.of(work.module, crossing), limits=whole.limits.among(crossing))
    assert checks_of(part.work.module) == (
        IndexCheck(operator="embedding", inputs=("view",), bounds=(0, 9)),
    )

"""Graph with observers: batch normalizations are folded, and it still computes the module.

Each forward is one that torchao's own folding gets wrong, or could.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from cluster.compression.quantization.observed import unrounded
from cluster.compression.quantization.static_int8 import prepare
from cluster.config.steps import Quantize
from cluster.tensors import TensorSpec

INPUTS = (TensorSpec(name="x", datatype="FP32", shape=(-1, 4, 6, 6)),)
STEP = Quantize(kind="quantize", scheme="static_int8", calibration="minmax")
Forward = Callable[["Model", torch.Tensor], torch.Tensor]


class Model(nn.Module):
    """Layers whose use is the ``forward`` under test; statistics far from 0 and 1."""

    def __init__(self, forward: Forward, *, bias: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(4, 8, 3, padding=1, bias=bias)
        self.conv1d = nn.Conv1d(4, 8, 3, padding="same")
        self.transposed = nn.ConvTranspose2d(4, 8, 2)
        self.grouped = nn.ConvTranspose2d(4, 8, 2, groups=2)
        self.linear = nn.Linear(8, 8, bias=bias)
        self.norm, self.other = nn.BatchNorm2d(8), nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.flat, self.before = nn.BatchNorm1d(8), nn.BatchNorm2d(4, affine=False)
        self.cumulative = nn.BatchNorm2d(8, momentum=None)
        self.of_batch = nn.BatchNorm2d(8, track_running_stats=False)
        self.groups, self.dropout = nn.GroupNorm(2, 8), nn.Dropout(0.5)
        self.compute = forward
        for norm in (self.norm, self.other, self.flat, self.before, self.cumulative):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.3, 2)
            if norm.affine:
                nn.init.normal_(norm.weight)
                nn.init.normal_(norm.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.compute(self, x)


def two_norms(m: Model, x: torch.Tensor) -> torch.Tensor:
    y = m.conv(x)
    return m.norm(y).relu() - m.other(y).relu()


def raw_and_norm(m: Model, x: torch.Tensor) -> torch.Tensor:
    y = m.conv(x)
    return m.norm(y).relu() + y


def own_norms(m: Model, x: torch.Tensor) -> torch.Tensor:
    return m.norm(m.conv(x)).relu() + m.other(m.conv(x.flip(2)))


def one_norm_twice(m: Model, x: torch.Tensor) -> torch.Tensor:
    return m.norm(m.conv(x)).relu() + m.norm(m.conv(x.flip(2)))


def shared_once_raw(m: Model, x: torch.Tensor) -> torch.Tensor:
    return m.norm(m.conv(x)).relu() + m.conv(x.flip(2))


def shared_weight(m: Model, x: torch.Tensor) -> torch.Tensor:
    return m.norm(m.conv(x)) + functional.conv2d(x.flip(2), m.conv.weight, padding=1)


def shared_bias(m: Model, x: torch.Tensor) -> torch.Tensor:
    y = functional.conv2d(x, m.transposed.weight.transpose(0, 1), m.conv.bias, padding=1)
    return m.norm(m.conv(x)) + y[:, :, :6, :6]


def norm_reused(m: Model, x: torch.Tensor) -> torch.Tensor:
    return m.norm(m.conv(x)) + m.norm(m.transposed(x))[:, :, :6, :6]


def transposed(m: Model, x: torch.Tensor) -> torch.Tensor:
    return m.norm(m.transposed(x))


def transposed_groups(m: Model, x: torch.Tensor) -> torch.Tensor:
    return m.norm(m.grouped(x))


def linear_shared(m: Model, x: torch.Tensor) -> torch.Tensor:
    y = m.linear(m.conv(x).mean((2, 3)))
    return m.flat(y) + y


def linear_twice(m: Model, x: torch.Tensor) -> torch.Tensor:
    y = m.conv(x).mean((2, 3))
    return m.flat(m.linear(y)) + m.flat(m.linear(-y))


def linear_of_tokens(m: Model, x: torch.Tensor) -> torch.Tensor:
    return m.flat(m.linear(m.conv(x).flatten(2)[:, :, :8]))


def one_axis(m: Model, x: torch.Tensor) -> torch.Tensor:
    return m.flat(m.conv1d(x.flatten(2)))


def without_layer(m: Model, x: torch.Tensor) -> torch.Tensor:
    return m.norm(m.conv(m.before(x)).relu())


def functional_norm(m: Model, x: torch.Tensor) -> torch.Tensor:
    return functional.batch_norm(m.conv(x), m.norm.running_mean, m.norm.running_var)


def computed_weight(m: Model, x: torch.Tensor) -> torch.Tensor:
    weight = m.conv.weight - m.conv.weight.mean((1, 2, 3), keepdim=True)
    return m.norm(functional.conv2d(x, weight, m.conv.bias, padding=1))


def computed_statistics(m: Model, x: torch.Tensor) -> torch.Tensor:
    y = m.conv(x)
    return functional.batch_norm(y, m.norm.running_mean, m.norm.running_var.exp(), m.norm.weight)


def branch(m: Model, x: torch.Tensor) -> torch.Tensor:
    y = m.conv(x)
    return torch.cat([m.norm(y), y.flip(3)], 1).amax(3)


def depthwise(m: Model, x: torch.Tensor) -> torch.Tensor:
    return m.other(m.depthwise(m.norm(m.conv(x)).relu()))


def residual(m: Model, x: torch.Tensor) -> torch.Tensor:
    y = m.norm(m.conv(x)).relu()
    return (y + m.other(m.depthwise(y))).relu()


def tied_weights(m: Model, x: torch.Tensor) -> torch.Tensor:
    y = m.flat(m.linear(m.conv(x).mean((2, 3)))).relu()
    return functional.linear(y, m.linear.weight.t())


def cumulative_statistics(m: Model, x: torch.Tensor) -> torch.Tensor:
    return m.cumulative(m.conv(x)).relu()


def batch_statistics(m: Model, x: torch.Tensor) -> torch.Tensor:
    return m.of_batch(m.conv(x)).relu()


def other_norms(m: Model, x: torch.Tensor) -> torch.Tensor:
    y = m.conv(x)
    return m.groups(y).relu() + m.dropout(m.norm(y))


def branch_on_shape(m: Model, x: torch.Tensor) -> torch.Tensor:
    return m.norm(m.conv(x)) if x.shape[2] > 4 else m.other(m.conv(x))


def read_after_change(m: Model, x: torch.Tensor) -> torch.Tensor:
    y = m.norm(m.conv(x))
    y.relu_()
    return m.depthwise(y) + y


def view_changed_in_place(m: Model, x: torch.Tensor) -> torch.Tensor:
    y = m.norm(m.conv(x))
    z = y.flatten(2)[:, :4]
    y.relu_()
    return m.conv1d(z)


FORWARDS = (
    two_norms,
    raw_and_norm,
    own_norms,
    one_norm_twice,
    shared_once_raw,
    shared_weight,
    shared_bias,
    norm_reused,
    transposed,
    transposed_groups,
    linear_shared,
    linear_twice,
    linear_of_tokens,
    one_axis,
    without_layer,
    functional_norm,
    computed_weight,
    computed_statistics,
    branch,
    depthwise,
    residual,
    tied_weights,
    cumulative_statistics,
    batch_statistics,
    other_norms,
    branch_on_shape,
)
WITHOUT_BIAS = (own_norms, one_norm_twice, two_norms, linear_twice)
CASES = [(forward, True) for forward in FORWARDS] + [(forward, False) for forward in WITHOUT_BIAS]
NAMES = [f"{forward.__name__}{'' if bias else '_no_bias'}" for forward, bias in CASES]


class Side(nn.Module):
    """Models side by side, for one export of all."""

    def __init__(self, models: list[Model]) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(model(x) for model in self.models)


@pytest.fixture(scope="module")
def outputs() -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
    """Return the outputs of all models, and of their prepared graph."""
    models = Side([Model(forward, bias=bias) for forward, bias in CASES]).eval()
    x = torch.randn(5, 4, 6, 6)
    with torch.no_grad():
        expected = models(x)
        prepared = prepare(models, INPUTS, (), STEP)
        actual: Any = unrounded(prepared)(x)
    norms = sum("batch_norm" in str(node.target) for node in prepared.graph.nodes)
    assert norms == 2  # of computed statistics, and of those of the batch
    return expected, actual


@pytest.mark.parametrize("case", range(len(CASES)), ids=NAMES)
def test_prepared_graph_computes_the_module(outputs: Any, case: int) -> None:
    expected, actual = outputs
    torch.testing.assert_close(actual[case], expected[case], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("forward", [view_changed_in_place, read_after_change])
def test_tensor_changed_in_place_is_quantized_as_changed(forward: Forward) -> None:
    model = Model(forward).eval()
    x = torch.randn(5, 4, 6, 6)
    with torch.no_grad():
        expected = model(x)
        prepared = prepare(model, INPUTS, (), STEP)
        torch.testing.assert_close(unrounded(prepared)(x), expected, rtol=1e-4, atol=1e-4)

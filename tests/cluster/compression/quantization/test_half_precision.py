"""Half precision of forwards that make float32 tensors, and of layers that share tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from cluster.compression.export import exported
from cluster.compression.quantization.quantize import quantize
from cluster.compression.work import Work
from cluster.config.steps import Quantize
from cluster.errors import CompressionError

Bench = Callable[..., Any]
Function = Callable[["Net", torch.Tensor], torch.Tensor]


class Net(nn.Module):
    """A convolution and two linear layers, with a function between them that a test chooses."""

    def __init__(self, function: Function, **parts: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(1, 8, 3, stride=4, padding=1)
        self.first, self.last = nn.Linear(128, 32), nn.Linear(32, 10)
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.function(self, images)

    def rest(self, images: torch.Tensor) -> torch.Tensor:
        return self.last(self.first(self.conv(images).flatten(1)).relu())


def usual(net: Net, images: torch.Tensor) -> torch.Tensor:
    return net.rest(images)


def scaled(net: Net, images: torch.Tensor) -> torch.Tensor:
    return net.rest(images.float() / 2)


def recurrent(net: Net, images: torch.Tensor) -> torch.Tensor:
    x = net.first(net.conv(images).flatten(1))
    return net.last(net.cell(x, torch.zeros(len(x), 32)))


def positions(net: Net, images: torch.Tensor) -> torch.Tensor:
    if net.kept is None:
        net.kept = torch.arange(32).float().cos()
    return net.last(net.first(net.conv(images).flatten(1)) * net.kept)


def attention(net: Net, images: torch.Tensor) -> torch.Tensor:
    x = net.first(net.conv(images).flatten(1)).view(-1, 4, 8)
    x = functional.scaled_dot_product_attention(x * torch.ones(4, 8), x, x)
    return net.last(x.flatten(1))


def overflowing(net: Net, images: torch.Tensor) -> torch.Tensor:
    x = net.first(net.conv(images).flatten(1)) * 1e4
    return net.last(x.tanh()) + x.square().mean(1, keepdim=True).log()


def by_dtype(net: Net, images: torch.Tensor) -> torch.Tensor:
    if images.dtype in (torch.float16, torch.bfloat16):
        raise NotImplementedError("only float32")
    return net.rest(images)


def functions(net: Net, images: torch.Tensor) -> torch.Tensor:
    x = net.conv(images).flatten(1).float()
    return functional.linear(functional.linear(x, net.first.weight), net.last.weight)


def quantized(initial: Any, net: nn.Module, scheme: str, **settings: Any) -> Work:
    step = Quantize.model_validate({"kind": "quantize", "scheme": scheme, **settings})
    return quantize(Work.of(net.eval(), initial.work.inputs), step, initial.job)


def difference(initial: Any, actual: nn.Module, expected: nn.Module) -> float:
    """Return the difference of the answers to samples, over the deviation of the right ones."""
    arrays, _ = initial.test.batch(range(16))
    with torch.no_grad():
        a, e = (part(torch.from_numpy(arrays[0])).numpy() for part in (actual, expected))
    return float(np.sqrt(((a - e) ** 2).mean()) / e.std())


OWN_DTYPES = {
    "scaled": Net(scaled),
    "recurrent": Net(recurrent, cell=nn.GRUCell(32, 32)),
    "positions": Net(positions, kept=None),
    "attention": Net(attention),
    "by dtype": Net(by_dtype),
}


@pytest.mark.parametrize("scheme", ["bf16", "fp16", "weight_only_int8"])
@pytest.mark.parametrize("kind", OWN_DTYPES)
def test_forward_with_float32_tensors_runs_in_half(bench: Bench, kind: str, scheme: str) -> None:
    initial, net = bench(), OWN_DTYPES[kind]
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    work = quantized(initial, net, scheme)
    assert difference(initial, work.module, net) < 0.03
    weights = work.weights()
    assert weights["last.weight"].dtype != torch.float32
    assert weights["first.weight"].dtype != torch.float32
    torch.testing.assert_close(net.state_dict(), before, rtol=0, atol=0)
    graph = exported(work.module, work.inputs, strict=False).module()
    assert difference(initial, graph, work.module) < 0.01


def test_usual_forward_is_converted_as_a_whole(bench: Bench) -> None:
    work = quantized(bench(), Net(usual), "bf16")
    assert work.precision is not None
    assert work.precision.whole
    assert {tensor.dtype for tensor in work.weights().values()} == {torch.bfloat16}


def test_values_outside_float16_stay_in_float32(bench: Bench) -> None:
    initial, net = bench(), Net(overflowing)
    assert quantized(initial, net, "bf16").precision.whole  # type: ignore[union-attr]
    work = quantized(initial, net, "fp16")
    assert work.precision is not None
    assert not work.precision.whole
    assert difference(initial, work.module, net) < 0.03
    assert any("layer by layer" in line for line in initial.lines)


def test_model_without_any_half_precision_is_refused(bench: Bench) -> None:
    whole = r"as a whole \(RuntimeError: .*, in forward of Net\)"
    by_layer = r"layer by layer \(RuntimeError.*choose a scheme in int8"
    reason = f"does not run in bfloat16, neither {whole} nor {by_layer}"
    with pytest.raises(CompressionError, match=reason):
        quantized(bench(), Net(functions), "bf16")


class Tied(nn.Module):
    """Two square layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.inner, self.outer = (nn.Linear(n, 64) for n in (256, 64, 64))
        self.head = nn.Linear(64, 10)
        self.outer.weight = self.inner.weight

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.outer(self.inner(self.first(images.flatten(1)).relu())).relu())


@pytest.mark.parametrize("scheme", ["dynamic_int8", "static_int8"])
def test_kept_layer_leaves_its_tied_layer_as_it_is(bench: Bench, scheme: str) -> None:
    initial, net = bench(), Tied()
    work = quantized(initial, net, scheme, keep=["outer"])
    assert net.outer.weight is net.inner.weight
    assert net.inner.weight.dtype == torch.float32
    assert difference(initial, work.module, net) < 0.1
    dtypes = {name: tensor.dtype for name, tensor in work.weights().items()}
    assert dtypes["outer.weight"] == torch.bfloat16
    assert torch.bfloat16 not in {dtypes[name] for name in dtypes if not name.startswith("outer")}
    assert torch.int8 in {dtypes[name] for name in dtypes if name.startswith("inner")}


def test_kept_layers_that_are_tied_stay_so(bench: Bench) -> None:
    work = quantized(bench(), Tied(), "dynamic_int8", keep=["outer", "inner"])
    assert work.module.outer.weight is work.module.inner.weight
    assert work.module.outer.weight.dtype == torch.bfloat16

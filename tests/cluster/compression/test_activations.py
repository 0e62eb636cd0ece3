"""Replacement of activation functions by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import get_args

import pytest
import torch
from torch import nn
from torchvision.models import mobilenet_v3_small

from cluster.compression.activations import ACTIVATIONS, name_of, replace, substitute
from cluster.config.steps import Activation, ReplaceActivation
from cluster.errors import CompressionError

FORMULAS: dict[str, Callable[[float], float]] = {
    "relu": lambda x: max(0.0, x),
    "relu6": lambda x: min(max(0.0, x), 6.0),
    "leaky_relu": lambda x: max(0.0, x) + 0.01 * min(0.0, x),
    "gelu": lambda x: x * 0.5 * (1 + math.erf(x / math.sqrt(2))),
    "gelu_tanh": lambda x: x / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "hardsigmoid": lambda x: min(max(0.0, x + 3), 6.0) / 6,
    "tanh": math.tanh,
    "hardtanh": lambda x: min(max(-1.0, x), 1.0),
    "silu": lambda x: x / (1 + math.exp(-x)),
    "hardswish": lambda x: x * min(max(0.0, x + 3), 6.0) / 6,
    "elu": lambda x: x if x > 0 else math.exp(x) - 1,
    "mish": lambda x: x * math.tanh(math.log(1 + math.exp(x))),
}


@pytest.mark.parametrize("name", get_args(Activation))
def test_activation_computes_formula_and_is_recognized(name: Activation) -> None:
    activation = ACTIVATIONS[name]()
    points = [-7.0, -2.0, -0.5, 0.0, 0.3, 1.5, 7.0]
    expected = torch.tensor([FORMULAS[name](x) for x in points])
    torch.testing.assert_close(activation(torch.tensor(points)), expected, atol=1e-6, rtol=1e-5)
    assert name_of(activation) == name


def test_all_activations_except_spared_are_replaced() -> None:
    module = mobilenet_v3_small(num_classes=10).eval()
    before = sum(isinstance(part, nn.Hardswish) for part in module.modules())
    names = substitute(module, "hardswish", "relu", ["features.0.*", "classifier.*"])
    spared = [name for name, part in module.named_modules() if isinstance(part, nn.Hardswish)]
    assert spared == ["features.0.2", "classifier.1"]
    assert len(names) == before - 2
    assert any(isinstance(part, nn.Hardsigmoid) for part in module.modules())


def test_step_keeps_input_model_and_reports_replacements(bench: Callable) -> None:
    initial = bench()
    step = ReplaceActivation(kind="replace_activation", old="relu", new="hardswish")
    work = replace(initial.work, step, initial.job)
    assert sum(isinstance(part, nn.Hardswish) for part in work.module.modules()) == 3
    assert sum(isinstance(part, nn.ReLU) for part in initial.work.module.modules()) == 3
    assert initial.job.details["replaced"] == ["2", "4", "7"]
    assert "replace  relu by hardswish in 3 places" in initial.lines
    assert not work.module.training


def test_shared_module_can_be_spared_in_one_place() -> None:
    shared = nn.ReLU()
    module = nn.Sequential(shared, nn.Linear(2, 2), shared)
    assert substitute(module, "relu", "tanh", ["0"]) == ("2",)
    assert isinstance(module[0], nn.ReLU)
    assert isinstance(module[2], nn.Tanh)


def test_activation_classes_of_transformers_are_recognized() -> None:
    from transformers.activations import ACT2FN

    known = {"gelu": "gelu", "gelu_new": "gelu_tanh", "silu": "silu", "mish": "mish"}
    assert {key: name_of(ACT2FN[key]) for key in known} == known


def test_missing_activation_names_present_activations() -> None:
    module = nn.Sequential(nn.ReLU(), nn.ReLU(), nn.Tanh())
    with pytest.raises(CompressionError, match=r"computes silu; .* relu \(2\), tanh \(1\)\. .*mak"):
        substitute(module, "silu", "relu")


def test_sparing_all_activations_is_rejected() -> None:
    with pytest.raises(CompressionError, match=r"spare keeps all 1 modules that compute relu"):
        substitute(nn.Sequential(nn.ReLU()), "relu", "tanh", ["*"])

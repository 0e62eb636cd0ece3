"""Sensitivity: the drop of the score when one layer alone is compressed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import pytest
import torch
from torch import nn

from cluster.compression import sensitivity as module_under_test
from cluster.compression.sensitivity import sensitivity, spread

LAYERS = ("0", "3", "8")


@pytest.fixture
def trained(bench: Callable, trained_weights: dict[str, torch.Tensor]):
    trained = bench()
    trained.work.module.load_state_dict(trained_weights)
    return trained


def without(module: nn.Module) -> Callable:
    """Return a function that sets a layer's weights of ``module`` to zero inside a block."""

    @contextmanager
    def disturb(layer: str) -> Iterator[None]:
        weight = module.get_submodule(layer).weight.data
        original = weight.clone()
        weight.zero_()
        yield
        weight.copy_(original)

    return disturb


def test_sensitivity_of_unchanged_layer_is_zero(trained) -> None:
    module = trained.work.module
    before = copy.deepcopy(module.state_dict())
    lost = without(module)

    def disturb(layer: str):
        return nullcontext() if layer == "3" else lost(layer)

    drops = sensitivity(module, LAYERS, disturb, trained.job)
    assert list(drops) == list(LAYERS)
    assert drops["3"] == 0
    assert min(drops["0"], drops["8"]) > 0.3
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert "not_judged" not in trained.job.details


def test_slow_model_is_measured_with_fewer_samples(trained, monkeypatch) -> None:
    counts = []
    run = module_under_test.outputs_of
    monkeypatch.setattr(
        module_under_test,
        "outputs_of",
        lambda *args: counts.append(args[2]) or run(*args),
    )
    disturb = without(trained.work.module)
    sensitivity(trained.work.module, ["0"], disturb, trained.job)
    monkeypatch.setattr(module_under_test, "_MOST_MACS", 1)
    sensitivity(trained.work.module, ["0"], disturb, trained.job)
    assert counts == [len(trained.job.validation)] * 2 + [32] * 2


def test_measured_layers_are_spread_evenly() -> None:
    names = [str(number) for number in range(161)]
    chosen = spread(names)
    assert len(chosen) == len(set(chosen)) == 40
    assert (chosen[0], chosen[-1]) == ("0", "160")
    assert spread(names[:7]) == names[:7]


def test_unmeasured_layers_are_named(trained, monkeypatch) -> None:
    monkeypatch.setattr(module_under_test, "MOST_LAYERS", 2)
    module = trained.work.module
    trained.lines.clear()
    assert list(sensitivity(module, LAYERS, without(module), trained.job)) == ["0", "8"]
    assert trained.job.details["not_judged"] == ["3"]
    assert trained.lines[0] == "sensitivity of 2 of 3 layers, evenly spread; not measured: 3"


def test_sensitivity_without_layers_runs_nothing(trained) -> None:
    disturb = without(trained.work.module)
    assert sensitivity(trained.work.module, [], disturb, trained.job) == {}

"""Sensitivity: the drop of the score when one layer alone is compressed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import nn

from cluster.compression import sensitivity as module_under_test
from cluster.compression.sensitivity import sensitivity, spread
from cluster.compression.training.train import train
from cluster.config.steps import Train

LAYERS = ("0", "3", "8")


@pytest.fixture
def trained(bench: Callable):
    made = bench()
    train(made.work, Train(kind="train", epochs=4), made.context)
    return made


def _without(module: nn.Module, layer: str) -> nn.Module:
    changed = copy.deepcopy(module)
    with torch.no_grad():
        changed.get_submodule(layer).weight.zero_()
    return changed


def test_a_layer_that_is_lost_costs_its_share_and_an_unchanged_one_nothing(trained) -> None:
    def disturb(module: nn.Module, layer: str) -> nn.Module:
        return module if layer == "3" else _without(module, layer)

    drops = sensitivity(trained.work.module, LAYERS, disturb, trained.context)
    assert list(drops) == list(LAYERS)
    assert drops["3"] == 0
    assert min(drops["0"], drops["8"]) > 0.3


def test_a_context_disturbs_the_module_itself_for_a_while(trained) -> None:
    module = trained.work.module
    before = copy.deepcopy(module.state_dict())

    @contextmanager
    def disturb(module: nn.Module, layer: str) -> Iterator[None]:
        weight = module.get_submodule(layer).weight.data
        kept = weight.clone()
        weight.zero_()
        yield
        weight.copy_(kept)

    by_context = sensitivity(module, LAYERS, disturb, trained.context)
    assert by_context == sensitivity(module, LAYERS, _without, trained.context)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


def test_a_slow_model_is_judged_by_fewer_samples(trained, monkeypatch) -> None:
    counts = []
    run = module_under_test.outputs_of
    monkeypatch.setattr(
        module_under_test,
        "outputs_of",
        lambda *taken: counts.append(taken[2]) or run(*taken),
    )
    sensitivity(trained.work.module, ["0"], _without, trained.context)
    monkeypatch.setattr(module_under_test, "_MOST_MACS", 1)
    sensitivity(trained.work.module, ["0"], _without, trained.context)
    assert counts == [len(trained.context.validation)] * 2 + [32] * 2


def test_many_layers_are_spread_evenly_from_the_first_to_the_last() -> None:
    names = [str(number) for number in range(161)]
    chosen = spread(names)
    assert len(chosen) == len(set(chosen)) == 40
    assert (chosen[0], chosen[-1]) == ("0", "160")
    assert spread(names[:7]) == names[:7]


def test_no_layers_no_runs(trained) -> None:
    assert sensitivity(trained.work.module, [], _without, trained.context) == {}

"""Answers and inputs that a model cannot be served with, refused at load in one sentence."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

from cluster.config.sources import ModelSource
from cluster.errors import SourceError
from cluster.models import LoadedModel, load_model

Pair = namedtuple("Pair", ["scores", "boxes"])


@dataclass
class Answer:
    logits: torch.Tensor
    extra: None = None


class Returns(nn.Module):
    """Returns a function of a linear layer's answer, ``[batch, 6]``."""

    def __init__(self, change: Any) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 6)
        self.change = change

    def forward(self, x: torch.Tensor) -> Any:
        return self.change(self.linear(x))


class Two(nn.Module):
    def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return left + right


class Named(nn.Module):
    def forward(self, x: torch.Tensor, *, mask: torch.Tensor) -> torch.Tensor:
        return x * mask


class Optional(nn.Module):
    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        return x if mask is None else x * mask


class Nothing(nn.Module):
    def forward(self) -> torch.Tensor:
        return torch.zeros(1, 2)


def make() -> nn.Module:
    """Return the module of the current test."""
    return MODULES[0]


MODULES: list[nn.Module] = []


def load(module: nn.Module, **fields: Any) -> LoadedModel:
    MODULES[:] = [module]
    inputs = {} if "tensors" in fields else {"tensor": {"shape": [4]}}
    source = {"source": f"python:{__name__}:make", **inputs, **fields}
    return load_model(ModelSource.model_validate(source))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda y: (y, y[:, :2]),
            r"a tuple of 2 tensors \(0 \[batch, 6\], 1 \[batch, 2\]\), and a",
        ),
        (lambda y: [y], r"a list of 1 tensor \(0 \[batch, 6\]\), .* with one output; let forward"),
        (lambda y: {"out": y, "aux": {"a": y}}, r"a dict of 2 tensors \(out .*, aux\.a \[batch"),
        (lambda y: Pair(y, y), r"a Pair of 2 tensors \(scores \[batch, 6\], boxes"),
        (lambda y: Answer(y), r"a Answer of 1 tensor \(logits \[batch, 6\]\)"),
        (lambda y: [y] * 9, r"a list of 9 tensors \(.*4 \[batch, 6\], \.\.\.\)"),
        (lambda y: None, "a NoneType without a tensor"),
        (lambda y: y.tolist(), "a list without a tensor"),
        (lambda y: y.view(-1, 2, 3), r"\[batch, 2, 3\], such as masks .*output\.flatten\(1\)"),
        (lambda y: y[:, 0], r"returns \[batch\], .*output\.unsqueeze\(1\).*model\.activation"),
        (lambda y: y.sum(), r"returns \[\] for a batch of 1, .*keep the batch as the first"),
        (lambda y: y.T, r"returns \[6, 1\] for a batch of 1, .*keep the batch as the first"),
        (lambda y: y[:, :0], r"\[batch, 0\], expected .* n of 1 or more"),
        (
            lambda y: (y > 0).long(),
            r"of torch\.int64, expected torch\.float32; .* not their argmax",
        ),
    ],
)
def test_answers_of_other_forms_are_refused(change: Any, message: str) -> None:
    with pytest.raises(SourceError, match=message) as refusal:
        load(Returns(change))
    assert str(refusal.value).endswith("Nothing was built")
    assert "\n" not in str(refusal.value)


def test_output_of_transformers_is_refused_by_name() -> None:
    transformers = pytest.importorskip("transformers")
    output = transformers.modeling_outputs.SequenceClassifierOutput
    with pytest.raises(SourceError, match=r"a SequenceClassifierOutput of 1 tensor \(logits \["):
        load(Returns(lambda y: output(logits=y)))


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Two(), r"takes 2 inputs \(left, right\), .* declares 1 \(input\); .* in model\.tensors"),
        (Named(), "forward needs mask by keyword, .* or give it a default"),
        (Nothing(), r"forward takes 0 inputs \(none\), and the recipe declares 1 \(input\)"),
    ],
)
def test_forwards_of_other_inputs_are_refused(module: nn.Module, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        load(module)


def test_optional_inputs_and_flattened_masks_are_served() -> None:
    assert load(Optional()).outputs[0].shape == (-1, 4)
    flat = load(Returns(lambda y: y.view(-1, 2, 3).flatten(1)), activation="none")
    assert (flat.outputs[0].name, flat.outputs[0].shape, flat.labels) == ("values", (-1, 6), ())


def named(*names: str) -> list[dict[str, Any]]:
    return [{"name": name, "shape": [4]} for name in names]


def test_several_inputs_are_passed_in_the_order_of_forward() -> None:
    model = load(Two(), tensors=named("left", "other"))
    assert [spec.name for spec in model.inputs] == ["left", "other"]
    assert load(Optional(), tensors=named("x", "mask")).outputs[0].shape == (-1, 4)
    with pytest.raises(SourceError, match=r"takes left, right and model.tensors has right, left: "):
        load(Two(), tensors=named("right", "left"))
    with pytest.raises(SourceError, match=r"takes 2 inputs .* declares 3 \(a, b, c\)"):
        load(Two(), tensors=named("a", "b", "c"))

"""Modules that end in their activation: refused, as serving would apply it a second time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from cluster.config.sources import ModelSource
from cluster.errors import SourceError
from cluster.models import load_model


class Ends(nn.Module):
    """Ends in a function of a linear layer's answer, ``[batch, 3]``."""

    def __init__(self, end: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.end = end

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.end(self.linear(x))


MODULES: list[nn.Module] = []


def make() -> nn.Module:
    """Return the module of the current test."""
    return MODULES[0]


def load(end: Callable[[torch.Tensor], torch.Tensor], activation: str | None) -> Any:
    MODULES[:] = [Ends(end)]
    source = {
        "source": f"python:{__name__}:make",
        "tensor": {"shape": [4]},
        "activation": activation,
    }
    return load_model(ModelSource.model_validate(source))


def frozen(logits: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return logits.softmax(1)


@pytest.mark.parametrize(
    ("end", "activation", "message"),
    [
        (lambda y: y.softmax(1), None, r"ends in softmax, .*return torch\.log\(p\)\) with"),
        (lambda y: y.softmax(1).view(-1, 3).squeeze(), "sigmoid", "ends in softmax"),
        (lambda y: y.exp() / y.exp().sum(1, keepdim=True), None, "ends in softmax"),
        (frozen, None, "ends in softmax"),
        (lambda y: torch.from_numpy(y.numpy()).softmax(1), None, "ends in softmax"),
        (nn.Sigmoid(), "sigmoid", r"ends in sigmoid, .*return torch\.logit\(p\)\) with"),
        (nn.Sigmoid(), None, r"ends in sigmoid, .*with model\.activation: sigmoid"),
    ],
)
def test_activation_in_forward_is_refused(
    end: Callable[[torch.Tensor], torch.Tensor], activation: str | None, message: str
) -> None:
    with pytest.raises(SourceError, match=f"forward {message}") as refusal:
        load(lambda y: end(y).view(-1, 3), activation)
    assert str(refusal.value).endswith("Nothing was built")


@pytest.mark.parametrize(
    ("end", "activation"),
    [
        (nn.Identity(), None),
        (lambda y: y.log_softmax(1), None),  # its softmax is that of the logits
        (lambda y: y.softmax(1).log(), None),
        (lambda y: y.sigmoid().logit(), "sigmoid"),
        (lambda y: y.relu(), "sigmoid"),
        (nn.Sigmoid(), "none"),  # a regression to 0..1
    ],
)
def test_logits_and_numbers_are_accepted(
    end: Callable[[torch.Tensor], torch.Tensor], activation: str | None
) -> None:
    model = load(end, activation)
    x = torch.randn(2, 4)
    torch.testing.assert_close(model.module(x), MODULES[0](x))
    assert all(parameter.grad is None for parameter in model.module.parameters())

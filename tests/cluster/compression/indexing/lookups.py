"""Models that look values up in a table of ten rows, each by another operator.

Inputs are integers ``[batch, 3]``, or floats of the same shape; outputs are floats.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

ROWS = 10
_EDGES = (1, 4)


class Lookup(nn.Module):
    """Calls a function of itself and the input."""

    def __init__(self, function: Callable[[Any, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.function = function
        self.table = nn.Parameter(torch.randn(ROWS, 4))
        self.embedding = nn.Embedding(ROWS, 4)
        self.bag = nn.EmbeddingBag(ROWS, 4)
        self.register_buffer("offsets", torch.tensor([0, 3, 6]))
        self.register_buffer("remap", torch.tensor([3, 1, 4, 1, 5, 9]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(self, x)


def _marked(x: torch.Tensor) -> torch.Tensor:
    marks = torch.zeros(x.shape[0], ROWS)
    marks[torch.arange(x.shape[0]), x[:, 0]] = 1.0
    return marks


def _clamped_in_place(m: Any, x: torch.Tensor) -> torch.Tensor:
    y = x.clone()
    y.clamp_(0, ROWS - 1)
    return m.embedding(y)


def _written_in_place(m: Any, x: torch.Tensor) -> torch.Tensor:
    y = torch.zeros(x.shape, dtype=torch.long)
    y[:, 0] = x[:, 0]
    return m.embedding(y)


def _rows_of(m: Any, x: torch.Tensor) -> torch.Tensor:
    return m.table[:, 0].expand(x.shape[0], -1)


DIRECT: dict[str, Callable[[Any, torch.Tensor], torch.Tensor]] = {
    "embedding of columns": lambda m, x: m.embedding(x[:, 0]) + m.embedding(x[:, 2]),
    "embedding of all": lambda m, x: m.embedding(x),
    "table[x]": lambda m, x: m.table[x],
    "table[x, y]": lambda m, x: m.table[x[:, 0], x[:, 1].clamp(0, 3)],
    "table[range, x]": lambda m, x: m.table.expand(x.shape[0], -1, -1)[
        torch.arange(x.shape[0]), x[:, 1]
    ],
    "index_select": lambda m, x: m.table.index_select(0, x.flatten()).view(x.shape[0], -1),
    "gather": lambda m, x: _rows_of(m, x).gather(1, x),
    "take": lambda m, x: m.table.take(x),
    "take_along_dim": lambda m, x: torch.take_along_dim(m.table[:, 0], x).view(x.shape[0], -1),
    "embedding_bag": lambda m, x: m.bag(x),
    "one_hot": lambda m, x: functional.one_hot(x, ROWS).float(),
    "scatter": lambda m, x: torch.zeros(x.shape[0], ROWS).scatter(1, x, 1.0),
    "scatter_add": lambda m, x: torch.zeros(x.shape[0], ROWS).scatter_add(
        1, x, torch.ones(x.shape)
    ),
    "assignment": lambda m, x: _marked(x),
    "index_add": lambda m, x: torch.zeros(ROWS).index_add(0, x.flatten(), torch.ones(x.numel())),
    "index_fill": lambda m, x: torch.zeros(ROWS, 4).index_fill(0, x.flatten(), 1.0),
    "offsets": lambda m, x: m.embedding(x + m.offsets),
    "one less": lambda m, x: m.embedding(x[:, 1:] + 1),
    "first the batch": lambda m, x: m.embedding(x.t()).mean(0),
    "columns by a list": lambda m, x: m.embedding(x[:, [2, 0]]),
    "with a token in front": lambda m, x: m.embedding(
        torch.cat([torch.ones(x.shape[0], 1, dtype=torch.long), x], 1)
    ),
    "int32": lambda m, x: (
        m.embedding(x.to(torch.int32).long()) if x.dtype == torch.int16 else m.table[x]
    ),
    "vmap": lambda m, x: torch.vmap(lambda row: m.table[row].sum(0))(x),
}
"""Models whose indices are elements of the input."""

COMPUTED: dict[str, Callable[[Any, torch.Tensor], torch.Tensor]] = {
    "sum of columns": lambda m, x: m.embedding(x[:, 0] * 2 + x[:, 1]),
    "product": lambda m, x: m.embedding(x * 3),
    "clamped": lambda m, x: m.embedding(x.clamp(0, ROWS - 1)),
    "clamped at one end": lambda m, x: m.table[x.clamp(max=ROWS - 1)],
    "remainder": lambda m, x: m.embedding(x % ROWS),
    "where": lambda m, x: m.embedding(torch.where(x > 5, 0, x)),
    "bucketize": lambda m, x: m.embedding(torch.bucketize(x, torch.tensor(_EDGES))),
    "argmax": lambda m, x: m.embedding(x.argmax(1)),
    "topk": lambda m, x: m.embedding(x.topk(2).indices),
    "scaled float": lambda m, x: m.embedding((x.float() * 0.5).long()),
    "remapped": lambda m, x: m.embedding(m.remap[x] + x),
    "in place": _clamped_in_place,
    "assigned": _written_in_place,
    "flat sums": lambda m, x: m.embedding((x + x.flip(1)).flatten()).view(x.shape[0], -1),
    "positions": lambda m, x: m.embedding(x.ne(1).long().cumsum(1) * x.ne(1) + 1),
    "floor division": lambda m, x: (x[:, :1] // x[:, 1:]).float(),
    "remainder by an input": lambda m, x: (5 % x).float(),
}
"""Models that compute indices, or divide by integers, and check them as they run."""

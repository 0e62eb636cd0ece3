"""An encoder's tokens → one embedding per text, as the checkpoint's own library joins them.

modules.json          which parts follow each other: Transformer, Pooling, Normalize
1_Pooling/config.json how tokens become one vector: their mean, or the first token

Both files come from sentence-transformers. A checkpoint without them is pooled by the mean and not
normalized, which is what that library does with such a checkpoint (``SentenceTransformer(path)``).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional

from cluster.errors import SourceError

Pooling = Literal["mean", "cls"]

ReadFile = Callable[[str], bytes | None]
"""Name of a file beside the weights → its bytes; None where there is none."""

_MODULES = "modules.json"
_KNOWN = ("Transformer", "Pooling", "Normalize")


class TextEmbedding(nn.Module):
    """``input_ids``, ``attention_mask`` int64 ``[batch, tokens]`` → float32 ``[batch, hidden]``.

    mean: the average of the tokens that are not padding, weighted by the attention mask,

        e = sum_t m_t h_t / max(sum_t m_t, 1e-9)

    cls: the first token. ``normalize`` divides by the Euclidean norm (Reimers and Gurevych 2019,
    "Sentence-BERT", section 3).
    """

    def __init__(self, model: nn.Module, pooling: Pooling, normalize: bool) -> None:
        super().__init__()
        self.model = model
        self.pooling = pooling
        self.normalize = normalize

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        tokens = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        if self.pooling == "cls":
            embedding = tokens[:, 0]
        else:
            mask = attention_mask.unsqueeze(-1).to(tokens.dtype)
            embedding = (tokens * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
        return functional.normalize(embedding, dim=1) if self.normalize else embedding


def joined(model: nn.Module, read: ReadFile, where: str) -> TextEmbedding:
    """``model``, an encoder, followed by the pooling that its files describe.

    Raises :class:`SourceError` for parts or a pooling that cannot be expressed here.
    """
    parts = _json(read(_MODULES), f"{where}/{_MODULES}")
    if parts is None:
        return TextEmbedding(model, "mean", normalize=False)
    # The last part of the type: it has moved between the library's packages over the years.
    kinds = [str(part["type"]).rpartition(".")[2] for part in parts]
    if kinds not in (list(_KNOWN), list(_KNOWN[:2])):
        raise SourceError(
            f"{where}: {_MODULES} joins {' → '.join(kinds)}; expected {' → '.join(_KNOWN[:2])}, "
            f"and {_KNOWN[2]} or nothing after it; wrap the model in a python: source otherwise"
        )
    file = f"{parts[1]['path']}/config.json"
    pooling = _pooling(_json(read(file), f"{where}/{file}"), f"{where}/{file}")
    return TextEmbedding(model, pooling, normalize=kinds[-1] == _KNOWN[2])


def _pooling(settings: Any, where: str) -> Pooling:
    settings = settings or {}
    named = settings.get("pooling_mode")  # how newer versions write it
    modes = [named] if isinstance(named, str) else list(named or ())
    modes += [
        name.removeprefix("pooling_mode_").removesuffix("_tokens").removesuffix("_token")
        for name, on in settings.items()
        if name.startswith("pooling_mode_") and on
    ]
    if modes not in (["mean"], ["cls"]):
        raise SourceError(
            f"{where}: pools by {' and '.join(map(str, modes)) or 'nothing named'}; expected mean "
            f"or cls; wrap the model in a python: source otherwise"
        )
    return "mean" if modes == ["mean"] else "cls"


def _json(content: bytes | None, where: str) -> Any:
    if content is None:
        return None
    try:
        return json.loads(content)
    except ValueError as error:
        raise SourceError(f"{where} is not JSON: {error}") from error

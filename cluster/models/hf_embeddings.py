"""Pooling of an encoder's tokens to one embedding per text, as in sentence-transformers.

modules.json          the sequence of parts: Transformer, Pooling, Normalize
1_Pooling/config.json the pooling of tokens: their mean, or the first token

Both files come from sentence-transformers. Without them, a checkpoint is pooled by the mean and
not normalized, as that library does (``SentenceTransformer(path)``).
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
"""Name of a file beside the weights → its bytes, or None."""

_MODULES = "modules.json"
_KNOWN = ("Transformer", "Pooling", "Normalize")


class TextEmbedding(nn.Module):
    """Encoder with pooling: token ids → embeddings, float32 ``[batch, hidden]``.

    Inputs are ``input_ids`` and ``attention_mask``, int64 ``[batch, tokens]``.

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


def with_pooling(model: nn.Module, read: ReadFile, location: str) -> TextEmbedding:
    """Return ``model``, an encoder, followed by the pooling of its files.

    Raises :class:`SourceError` for unsupported parts or poolings.
    """
    parts = _json(read(_MODULES), f"{location}/{_MODULES}")
    if parts is None:
        return TextEmbedding(model, "mean", normalize=False)
    # Only the type's last part: its package has changed over the library's versions.
    kinds = [str(part["type"]).rpartition(".")[2] for part in parts]
    if kinds not in (list(_KNOWN), list(_KNOWN[:2])):
        raise SourceError(
            f"{location}: {_MODULES} has the parts {' → '.join(kinds)}; expected "
            f"{' → '.join(_KNOWN[:2])}, "
            f"optionally with {_KNOWN[2]}; wrap other models in a python: source"
        )
    file = f"{parts[1]['path']}/config.json"
    pooling = _pooling(_json(read(file), f"{location}/{file}"), f"{location}/{file}")
    return TextEmbedding(model, pooling, normalize=kinds[-1] == _KNOWN[2])


def _pooling(settings: Any, location: str) -> Pooling:
    settings = settings or {}
    named = settings.get("pooling_mode")  # form of newer versions
    modes = [named] if isinstance(named, str) else list(named or ())
    modes += [
        name.removeprefix("pooling_mode_").removesuffix("_tokens").removesuffix("_token")
        for name, on in settings.items()
        if name.startswith("pooling_mode_") and on
    ]
    if modes not in (["mean"], ["cls"]):
        raise SourceError(
            f"{location}: pools by {' and '.join(map(str, modes)) or 'no known mode'}; expected "
            f"mean or cls; wrap other models in a python: source"
        )
    return "mean" if modes == ["mean"] else "cls"


def _json(content: bytes | None, location: str) -> Any:
    if content is None:
        return None
    try:
        return json.loads(content)
    except ValueError as error:
        raise SourceError(f"{location} is not JSON: {error}") from error

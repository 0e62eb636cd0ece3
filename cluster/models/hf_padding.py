"""Check of a text model: padding a text to the length of the input must not change its answer.

tokens ─┬─ as they are, batch of one ─→ answer ─┐
        └─ padded to max_length, masked ─→ answer ─┴─ equal, or SourceError

Models that mix in padding (FNet), and positions counted from padding on the left (GPT-2), answer
otherwise than the library's own pipeline, which pads nothing for a single text.
"""

from __future__ import annotations

from typing import Any

import torch

from cluster.errors import SourceError

_LIMIT = 1e-3
_TEXTS = 4


def require_ignored_padding(
    module: torch.nn.Module, tokenizer: Any, max_length: int, name: str
) -> None:
    """Compare answers to padded and unpadded tokens; SourceError over 0.001 of their spread.

    ``module`` takes token ids and their mask, int64 ``[batch, tokens]``.
    """
    texts = _texts(tokenizer, max_length)
    if not texts:
        return
    left = tokenizer.padding_side == "left"
    try:
        with torch.inference_mode():
            alone = torch.cat([module(ids, torch.ones_like(ids)) for ids in texts])
            padded = torch.cat(
                [module(*_padded(ids, max_length, tokenizer.pad_token_id, left)) for ids in texts]
            )
    except Exception:  # noqa: BLE001 - the probe runs next, and names what the module raises
        return
    spread = max(float((alone - alone.mean(0)).norm()), 0.01 * float(alone.norm()), 1e-30)
    difference = float((padded - alone).norm()) / spread
    if not difference <= _LIMIT:
        side = "left" if left else "right"
        raise SourceError(
            f"{name}: padding a text to {max_length} tokens changes the answer by {difference:.3g} "
            f"of the answers' spread, expected {_LIMIT:g} at most (padding_side {side}): the model "
            "does not leave out masked tokens. Save the tokenizer with padding_side 'right', or "
            "use a model that reads attention_mask"
        )


def _texts(tokenizer: Any, max_length: int) -> list[torch.Tensor]:
    """Return token ids int64 ``[1, tokens]`` of different lengths, with the special tokens."""
    special = set(tokenizer.all_special_ids)
    words = torch.tensor([token for token in range(len(tokenizer)) if token not in special])
    if not len(words):
        return []
    random = torch.Generator().manual_seed(0)
    texts = []
    for index in range(_TEXTS):
        length = max(1, max_length * (index + 1) // (2 * _TEXTS) - 2)
        chosen = words[torch.randint(len(words), (length,), generator=random)].tolist()
        ids = tokenizer.encode(tokenizer.decode(chosen), truncation=True, max_length=max_length)
        if ids:
            texts.append(torch.tensor([ids]))
    return texts


def _padded(
    ids: torch.Tensor, max_length: int, pad: int, left: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    missing = max_length - ids.shape[1]
    sides = (missing, 0) if left else (0, missing)
    return (
        torch.nn.functional.pad(ids, sides, value=pad),
        torch.nn.functional.pad(torch.ones_like(ids), sides),
    )

"""A text → token ids, with the model's own tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from cluster.config.sources import TextInput
from cluster.errors import ConfigError

_PAD_TOKENS = ("[PAD]", "<pad>")


class TextEncoder:
    """Encoder of texts to token ids, with the model's own tokenizer.

    ``tokenizer_json``: content of a Hugging Face ``tokenizer.json``. Texts are truncated and padded
    to ``spec.max_length`` with the file's padding token and sides; by default with ``[PAD]`` or
    ``<pad>`` on the right, or else id 0 (hidden by the attention mask). ConfigError when the
    ``tokenizers`` library is not installed or cannot read the file.
    """

    def __init__(self, tokenizer_json: bytes, spec: TextInput) -> None:
        # Imported here: an extra that only text models need.
        try:
            from tokenizers import Tokenizer
        except ImportError:
            raise ConfigError(
                "text models need the tokenizers library: pip install 'headrace[hf]'"
            ) from None
        try:
            tokenizer = Tokenizer.from_buffer(tokenizer_json)
        except Exception as error:  # tokenizers raises plain Exception
            raise ConfigError(f"tokenizer.json cannot be read: {error}") from error
        truncation = tokenizer.truncation or {}
        tokenizer.enable_truncation(spec.max_length, direction=truncation.get("direction", "right"))
        padding = tokenizer.padding or _default_padding(tokenizer.token_to_id)
        tokenizer.enable_padding(
            length=spec.max_length,
            direction=padding["direction"],
            pad_id=padding["pad_id"],
            pad_token=padding["pad_token"],
        )
        self._tokenizer = tokenizer

    def __call__(self, text: str) -> dict[str, np.ndarray]:
        """Return ``input_ids`` and ``attention_mask`` of one text, both int64 ``[max_length]``."""
        encoding = self._tokenizer.encode(text)
        return {
            "input_ids": np.array(encoding.ids, np.int64),
            "attention_mask": np.array(encoding.attention_mask, np.int64),
        }


def _default_padding(token_to_id: Callable[[str], int | None]) -> dict[str, Any]:
    for token in _PAD_TOKENS:
        token_id = token_to_id(token)
        if token_id is not None:
            return {"direction": "right", "pad_id": token_id, "pad_token": token}
    return {"direction": "right", "pad_id": 0, "pad_token": _PAD_TOKENS[0]}

"""Limits that are checked before a model's preprocessing."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import numpy as np
import pytest

from cluster.config.serving import Limits
from cluster.config.sources import TextInput
from cluster.errors import PayloadTooLargeError
from cluster.protocol.predict import PredictRequest
from cluster.tensors import TensorSpec
from deployments.model.infer import _preprocess

SPEC = TensorSpec(name="input_ids", datatype="INT64", shape=(-1, 4))


def ask(text: str) -> list[np.ndarray]:
    model = SimpleNamespace(
        name="m",
        manifest=SimpleNamespace(image=None, text=TextInput(max_length=4), inputs=(SPEC,)),
        limits=Limits(text_bytes=6),
        text_encoder=lambda text: {"input_ids": np.full(4, len(text))},
    )
    item = PredictRequest(image=None, text=text, inputs=None, top_k=1)
    return asyncio.run(_preprocess(model, item))


def test_text_within_limit_is_encoded() -> None:
    (ids,) = ask("Zürich"[:5])
    np.testing.assert_array_equal(ids, [[5, 5, 5, 5]])


def test_text_over_limit_is_rejected_before_tokenizing() -> None:
    with pytest.raises(PayloadTooLargeError, match=r"the text is 7 bytes, .* at most 6"):
        ask("Zürich")

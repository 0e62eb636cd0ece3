"""Check of answers: a server with wrong answers is not measured."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks.contenders.contender import Endpoint
from benchmarks.harness.errors import BenchmarkError
from benchmarks.load.verify import verify
from cluster.protocol.answer import encode_infer
from cluster.protocol.binary_tensor import HEADER_LENGTH
from cluster.protocol.infer import InferRequest
from cluster.protocol.requested_outputs import RequestedOutput
from cluster.tensors import TensorSpec

LOGITS = np.random.default_rng(3).standard_normal((3, 10)).astype(np.float32)
BODIES = [b"0", b"1", b"2"]


def test_equal_logits_pass(serving) -> None:
    url = serving(lambda body, _: (200, LOGITS[int(body)].tobytes()))
    assert verify(Endpoint(url, {}, None), BODIES, LOGITS) == 0.0


def test_json_before_a_binary_tensor_is_skipped(serving) -> None:
    spec = TensorSpec(name="logits", datatype="FP32", shape=(-1, 10))
    request = InferRequest(None, (np.zeros((1, 1)),), (RequestedOutput("logits", True),))
    encoded = encode_infer("m", "1", request, [LOGITS[:1]], [spec])
    skipped = int(encoded.headers[HEADER_LENGTH])
    assert json.loads(encoded.body[:skipped])["outputs"][0]["name"] == "logits"
    url = serving(lambda *_: (200, encoded.body, {HEADER_LENGTH: str(skipped)}))
    assert verify(Endpoint(url, {}, None), BODIES[:1], LOGITS[:1]) == 0.0


def test_answers_of_another_request_are_refused(serving) -> None:
    url = serving(lambda body, _: (200, LOGITS[(int(body) + 1) % 3].tobytes()))
    with pytest.raises(BenchmarkError, match="other outputs"):
        verify(Endpoint(url, {}, None), BODIES, LOGITS)


def test_error_answer_is_shown_with_its_text(serving) -> None:
    url = serving(lambda *_: (503, b"no replica"))
    with pytest.raises(BenchmarkError, match=r"503.*no replica"):
        verify(Endpoint(url, {}, None), BODIES, LOGITS)


def test_references_that_hide_a_mix_up_are_refused(serving) -> None:
    url = serving(lambda *_: (200, LOGITS[0].tobytes()))
    with pytest.raises(BenchmarkError, match="mix-up"):
        verify(Endpoint(url, {}, None), BODIES[:2], LOGITS[[0, 0]])

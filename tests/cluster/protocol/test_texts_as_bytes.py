"""BYTES inputs of text models, as NVIDIA's client sends them, and malformed ones."""

from __future__ import annotations

import struct
import time
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.http import InferenceServerClient, InferInput

from cluster.errors import RequestError
from cluster.protocol.infer import InferRequest, decode_infer
from cluster.tensors import TensorSpec

IDS = TensorSpec(name="input_ids", datatype="INT64", shape=(-1, 4))
MASK = TensorSpec(name="attention_mask", datatype="INT64", shape=(-1, 4))
Y = TensorSpec(name="y", datatype="FP32", shape=(-1, 2))
TEXTS = ("one", "zwei: größer ☂", "", "a\0b")


def decode(body: bytes, header_length: int | None = None, max_texts: int = 8) -> InferRequest:
    return decode_infer(body, header_length, [IDS, MASK], [Y], 2**20, max_texts)


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
@pytest.mark.parametrize("shape", [(4,), (4, 1)])
@pytest.mark.parametrize("element", ["str", "bytes"])
def test_texts_of_triton_client_are_read(
    binary: bool, shape: tuple[int, ...], element: str
) -> None:
    values = [text.encode() if element == "bytes" else text for text in TEXTS]
    array = np.array(values, np.object_).reshape(shape)
    tensor = InferInput("TEXT", list(shape), "BYTES")
    tensor.set_data_from_numpy(array, binary_data=binary)
    request = decode(*InferenceServerClient.generate_request_body([tensor]))
    assert request.texts == TEXTS
    assert (request.arrays, request.batch) == ((), 4)


@given(st.lists(st.text(), min_size=1, max_size=8))
def test_any_text_survives_binary_form(texts: list[str]) -> None:
    encoded = [text.encode("utf-8", "replace") for text in texts]
    part = b"".join(struct.pack("<I", len(text)) + text for text in encoded)
    head = text_head([len(texts)], parameters={"binary_data_size": len(part)})
    assert decode(head + part, len(head)).texts == tuple(text.decode() for text in encoded)


def text_head(shape: Any, **fields: Any) -> bytes:
    tensor = {"name": "text", "datatype": "BYTES", "shape": shape, **fields}
    return orjson.dumps({"inputs": [tensor]})


@pytest.mark.parametrize("data", [["a", "b"], [["a"], ["b"]]])
def test_json_may_be_nested(data: Any) -> None:
    assert decode(text_head([2, 1], data=data)).texts == ("a", "b")


@pytest.mark.parametrize(
    ("shape", "data", "message"),
    [
        ([9], ["a"] * 9, "holds 9 texts, this model takes at most 8 in one request; split it"),
        ([10**12], ["a"], "this model takes at most 8"),
        ([0], [], r"shape must be \[n\] or \[n, 1\]"),
        ([1, 2], ["a", "b"], r"shape must be \[n\] or \[n, 1\]"),
        ([1, True], ["a"], r"shape must be \[n\] or \[n, 1\]"),
        (1, ["a"], r"shape must be \[n\] or \[n, 1\]"),
        ([2], ["a"], "data must be a list of 2 texts, got 1 elements"),
        ([1], "a", "data must be a list of 1 texts, got 'a'"),
        ([1], [1], "element 0 of data is 1 .integer., BYTES takes text"),
        ([1], [["a", "b"]], "element 0 of data is"),
        ([1], None, "needs either data or parameters.binary_data_size, got neither"),
    ],
)
def test_wrong_texts_in_json_are_refused(shape: Any, data: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        decode(text_head(shape, data=data))


@pytest.mark.parametrize(
    ("count", "part", "message"),
    [
        (1, b"", "its 0 bytes end within element 0 of 1"),
        (1, b"\1\0\0", "its 3 bytes end within element 0 of 1"),
        (1, b"\2\0\0\0a", "its 5 bytes end within element 0 of 1"),
        (2, b"\1\0\0\0a", "its 5 bytes end within element 1 of 2"),
        (1, b"\xff\xff\xff\xffa", "end within element 0"),
        (1, b"\0\0\0\1a", "end within element 0"),  # big-endian
        (1, b"\1\0\0\0ab", "1 of its 6 bytes follow the last of 1 elements"),
        (1, b"\1\0\0\0\xff", "element 0 is not UTF-8"),
    ],
)
def test_wrong_binary_texts_are_refused(count: int, part: bytes, message: str) -> None:
    head = text_head([count], parameters={"binary_data_size": len(part)})
    with pytest.raises(RequestError, match=message):
        decode(head + part, len(head))


@pytest.mark.parametrize("size", [-1, 1.0, True, "5", 6])
def test_wrong_size_of_texts_is_refused(size: Any) -> None:
    head = text_head([1], parameters={"binary_data_size": size})
    with pytest.raises(RequestError, match="binary_data_size"):
        decode(head + b"\1\0\0\0a", len(head))


def test_bytes_beside_other_inputs_are_refused() -> None:
    ids = {"name": "input_ids", "datatype": "INT64", "shape": [1, 4], "data": [1, 2, 3, 4]}
    text = {"name": "text", "datatype": "BYTES", "shape": [1], "data": ["a"]}
    with pytest.raises(RequestError, match="inputs holds 2 tensors, one of them BYTES"):
        decode(orjson.dumps({"inputs": [ids, text]}))


def test_text_model_still_takes_token_ids() -> None:
    inputs = [
        {"name": spec.name, "datatype": "INT64", "shape": [1, 4], "data": [1, 2, 3, 4]}
        for spec in (IDS, MASK)
    ]
    request = decode(orjson.dumps({"inputs": inputs}))
    assert request.texts == ()
    assert [array.tolist() for array in request.arrays] == [[[1, 2, 3, 4]]] * 2


def test_other_models_refuse_bytes() -> None:
    for name in ("text", "input_ids"):
        tensor = {"name": name, "datatype": "BYTES", "shape": [1], "data": ["a"]}
        with pytest.raises(RequestError, match=r"no input is named 'text'|BYTES is for texts"):
            decode(orjson.dumps({"inputs": [tensor]}), max_texts=0)


def test_many_empty_texts_are_refused_before_reading() -> None:
    part = bytes(2**22)  # a million empty texts
    head = text_head([2**20], parameters={"binary_data_size": len(part)})
    started = time.process_time()
    with pytest.raises(RequestError, match="takes at most 8"):
        decode(head + part, len(head))
    assert time.process_time() - started < 0.5

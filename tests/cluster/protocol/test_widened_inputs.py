"""Inputs in a narrower datatype than the model's, sent by NVIDIA's client and by hand."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import orjson
import pytest
from tritonclient.http import InferenceServerClient, InferInput

from cluster.errors import RequestError
from cluster.protocol.infer import decode_infer
from cluster.protocol.widening import narrower
from cluster.tensors import DATATYPES, TensorSpec

LIMIT = 2**20
HALVES = {"FP16": np.dtype(np.float16), "BF16": np.dtype(ml_dtypes.bfloat16)}
NUMPY = {**DATATYPES, **HALVES}


def every_value(datatype: str) -> np.ndarray:
    """Return every finite value of a 16-bit datatype, or the extremes of a wider one."""
    dtype = NUMPY[datatype]
    if dtype.itemsize == 2:
        array = np.arange(2**16, dtype=np.uint16).view(dtype)
        return array if dtype.kind in "iu" else array[np.isfinite(array)]
    info = np.iinfo(dtype) if dtype.kind in "iu" else np.finfo(dtype)
    return np.array([info.min, info.max, 0, 1], dtype)


def decode(array: np.ndarray, datatype: str, to: str, binary: bool) -> np.ndarray:
    tensor = InferInput("x", list(array.shape), datatype)
    tensor.set_data_from_numpy(array, binary_data=binary)
    body, header_length = InferenceServerClient.generate_request_body([tensor])
    spec = TensorSpec(name="x", datatype=to, shape=(-1,))
    return decode_infer(body, header_length, [spec], [spec], LIMIT * 8).arrays[0]


CONVERSIONS = [(sent, model) for model in DATATYPES for sent in narrower(model)]


def assert_exact(array: np.ndarray, read: np.ndarray, model: str) -> None:
    np.testing.assert_array_equal(read, array.astype(DATATYPES[model]), strict=True)
    np.testing.assert_array_equal(read.astype(array.dtype), array)


@pytest.mark.parametrize(("sent", "model"), CONVERSIONS)
def test_narrower_binary_input_is_converted_exactly(sent: str, model: str) -> None:
    array = every_value(sent)
    assert_exact(array, decode(array, sent, model, True), model)


@pytest.mark.parametrize(("sent", "model"), [pair for pair in CONVERSIONS if pair[0] != "BF16"])
def test_narrower_json_input_is_converted_exactly(sent: str, model: str) -> None:
    array = every_value(sent)
    assert_exact(array, decode(array, sent, model, False), model)


def test_nan_and_infinity_are_kept_in_binary_halves() -> None:
    for datatype, dtype in HALVES.items():
        array = np.array([np.nan, np.inf, -np.inf, -0.0], np.float32).astype(dtype)
        read = decode(array, datatype, "FP32", True)
        np.testing.assert_array_equal(read, array.astype(np.float32))
        assert np.signbit(read[3])


def test_same_kind_alone_is_converted() -> None:
    assert narrower("FP32") == ("FP16", "BF16")
    assert narrower("FP64") == ("FP16", "FP32", "BF16")
    assert set(narrower("INT64")) == {"UINT8", "UINT16", "UINT32", "INT8", "INT16", "INT32"}
    assert set(narrower("INT32")) == {"UINT8", "UINT16", "INT8", "INT16"}
    assert set(narrower("UINT16")) == {"UINT8"}
    assert narrower("BOOL") == narrower("UINT8") == narrower("FP16") == ()


def test_json_beyond_range_of_sent_datatype_is_refused() -> None:
    spec = TensorSpec(name="x", datatype="FP32", shape=(-1,))
    tensor = {"name": "x", "datatype": "FP16", "shape": [1], "data": [70000.0]}
    with pytest.raises(RequestError, match=r"70000.0 .*, FP16 takes numbers within"):
        decode_infer(orjson.dumps({"inputs": [tensor]}), None, [spec], [spec], LIMIT)


def test_size_of_narrower_input_is_that_of_its_own_datatype() -> None:
    spec = TensorSpec(name="x", datatype="FP32", shape=(-1,))
    parameters = {"binary_data_size": 16}
    tensor = {"name": "x", "datatype": "FP16", "shape": [4], "parameters": parameters}
    text = orjson.dumps({"inputs": [tensor]})
    with pytest.raises(RequestError, match="binary_data_size must be 8, for FP16"):
        decode_infer(text + bytes(16), len(text), [spec], [spec], LIMIT)

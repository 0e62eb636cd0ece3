"""Correct inference requests, in every form of the protocol."""

import subprocess
import sys

import numpy as np
import orjson
import pytest

from cluster.protocol.infer import decode_infer, parse_header_length
from cluster.protocol.requested_outputs import RequestedOutput
from cluster.tensors import TensorSpec

X = TensorSpec(name="x", datatype="FP32", shape=(-1, 2, 3))
Y = TensorSpec(name="y", datatype="FP32", shape=(-1, 4))
Z = TensorSpec(name="z", datatype="FP32", shape=(-1, 1))
NESTED = [[[1, 2.5, 3], [4, 5, 6]], [[7, 8, 9], [10, 11, -12]]]
ARRAY = np.array(NESTED, np.float32)


def decode(message, binary=b"", specs=(X,), outputs=(Y, Z)):
    text = orjson.dumps(message)
    header_length = len(text) if binary else None
    return decode_infer(text + binary, header_length, specs, outputs, 2**20)


def tensor(**fields):
    return {"name": "x", "datatype": "FP32", "shape": [2, 2, 3], **fields}


@pytest.mark.parametrize("data", [NESTED, ARRAY.ravel().tolist()], ids=["nested", "flat"])
def test_decode_reads_json_data(data):
    request = decode({"inputs": [tensor(data=data)]})
    np.testing.assert_array_equal(request.arrays[0], ARRAY, strict=True)
    assert request.id is None


def test_outputs_default_to_json():
    request = decode({"inputs": [tensor(data=NESTED)]})
    assert request.outputs == (RequestedOutput("y", False), RequestedOutput("z", False))


def test_output_overrides_default_of_request():
    message = {
        "inputs": [tensor(data=NESTED)],
        "parameters": {"binary_data_output": True},
        "outputs": [{"name": "z", "parameters": {"binary_data": False}}, {"name": "y"}],
    }
    assert decode(message).outputs == (RequestedOutput("z", False), RequestedOutput("y", True))


def test_decode_ignores_null_fields_and_open_parameters():
    message = {
        "id": None,
        "inputs": [tensor(data=NESTED, parameters=None)],
        "outputs": None,
        "parameters": {"priority": 3, "binary_data_output": None},
    }
    assert len(decode(message).outputs) == 2


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_aligned_binary_data_is_view_of_body(kind):
    text = orjson.dumps({"inputs": [tensor(parameters={"binary_data_size": ARRAY.nbytes})]})
    text += b" " * (-len(text) % 8)
    body = kind(text + ARRAY.tobytes())
    (array,) = decode_infer(body, len(text), [X], [Y], 2**20).arrays
    np.testing.assert_array_equal(array, ARRAY, strict=True)
    assert np.shares_memory(array, np.frombuffer(body, np.uint8))
    assert array.flags.aligned
    assert array.flags.c_contiguous


@pytest.mark.parametrize("shift", [1, 2, 3])
def test_unaligned_binary_data_is_unaligned_view(shift):
    text = orjson.dumps({"inputs": [tensor(parameters={"binary_data_size": ARRAY.nbytes})]})
    text += b" " * (-len(text) % 8 + shift)
    body = text + ARRAY.tobytes()
    (array,) = decode_infer(body, len(text), [X], [Y], 2**20).arrays
    np.testing.assert_array_equal(array, ARRAY, strict=True)
    assert not array.flags.aligned
    assert np.shares_memory(array, np.frombuffer(body, np.uint8))


@pytest.mark.parametrize("batch", [1, 2])
def test_raw_request_has_one_input_and_binary_outputs(batch):
    body = ARRAY[:batch].tobytes()
    request = decode_infer(body, 0, [X], [Y, Z], 2**20)
    np.testing.assert_array_equal(request.arrays[0], ARRAY[:batch], strict=True)
    assert np.shares_memory(request.arrays[0], np.frombuffer(body, np.uint8))
    assert request.outputs == (RequestedOutput("y", True), RequestedOutput("z", True))


def test_json_limit_excludes_binary_data():
    text = orjson.dumps({"inputs": [tensor(parameters={"binary_data_size": ARRAY.nbytes})]})
    body = text + ARRAY.tobytes()
    assert decode_infer(body, len(text), [X], [Y], max_json_bytes=len(text)).batch == 2


def test_binary_data_may_hold_nan():
    array = np.full((1, 4), np.nan, np.float32)
    (read,) = decode_infer(array.tobytes(), 0, [Y], [Z], 2**20).arrays
    assert np.isnan(read).all()


@pytest.mark.parametrize(("value", "expected"), [(None, None), ("0", 0), (" 151 ", 151), ("00", 0)])
def test_header_length_is_parsed(value, expected):
    assert parse_header_length(value) == expected


def test_serving_path_imports_no_heavy_library():
    code = (
        "import sys, cluster.preprocess, cluster.protocol.predict, cluster.protocol.answer, "
        "cluster.protocol.metadata; "
        "print([m for m in ('torch', 'torchvision', 'ray', 'fastapi', 'tokenizers') "
        "if m in sys.modules])"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert process.stdout.strip() == "[]"

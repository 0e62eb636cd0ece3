"""Wrong inference requests: status 400 or 413, with the given and the expected value."""

import numpy as np
import orjson
import pytest

from cluster.errors import PayloadTooLargeError, RequestError
from cluster.protocol.infer import decode_infer, parse_header_length
from cluster.tensors import TensorSpec

LIMIT = 2**20
X = TensorSpec(name="x", datatype="FP32", shape=(-1, 2))
IDS = TensorSpec(name="ids", datatype="INT64", shape=(-1, 2))
Y = TensorSpec(name="y", datatype="FP32", shape=(-1, 2))
GOOD = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}
MISSING = object()


def tensor(**changes):
    fields = {**GOOD, **changes}
    return {name: value for name, value in fields.items() if value is not MISSING}


def binary(size, **changes):
    return tensor(data=MISSING, parameters={"binary_data_size": size}, **changes)


def refuse(body, match, *, header_length=None, specs=(X,), error=RequestError, limit=LIMIT):
    with pytest.raises(error, match=match) as caught:
        decode_infer(body, header_length, specs, [Y], limit)
    assert caught.value.http_status == (413 if error is PayloadTooLargeError else 400)
    assert len(str(caught.value)) < 500  # never echoes a body


def refuse_tensor(fields, match, **options):
    refuse(orjson.dumps({"inputs": [fields]}), match, **options)


# ------------------------------------------------------------------ the JSON part


@pytest.mark.parametrize(
    ("body", "match"),
    [
        (b"", "body is empty"),
        (b"{", "cannot be parsed"),
        (b"[]", "expected a JSON object, got"),
        (b"null", "expected a JSON object, got None"),
        (b'{"inputs": [], "id": "\xff\xfe"}', "UTF-8"),
        ('{"inputs": []}'.encode("utf-16"), "cannot be parsed"),
        (b'{"inputs": [{"data": [NaN]}]}', "NaN and Infinity are not JSON"),
        (b'{"inputs": [{"data": [-Infinity]}]}', "NaN and Infinity are not JSON"),
        (b'{"inputs": [{"data": [1e999]}]}', "infinity"),
        (b'{"inputs": [1,]}', "cannot be parsed"),
        (b"{} {}", "cannot be parsed"),
        (b"[" * 1_000_000, "cannot be parsed"),
        (b'{"a":' * 200_000 + b"1" + b"}" * 200_000, "cannot be parsed"),
        (b'{"a":' + b"[" * 1024 + b"]" * 1024 + b"}", "cannot be parsed"),
    ],
)
def test_decode_rejects_malformed_json(body, match):
    refuse(body, match, limit=2**22)


def test_decode_rejects_json_over_limit_before_parsing():
    refuse(b"[" * 101, "101 bytes, the limit is 100", limit=100, error=PayloadTooLargeError)


def test_decode_accepts_deepest_supported_nesting():
    deepest = b"[" * 1023 + b"]" * 1023
    body = b'{"extra": %s, "text": "[[[[", "inputs": [%s]}' % (deepest, orjson.dumps(GOOD))
    assert decode_infer(body, None, [X], [Y], LIMIT).batch == 1


@pytest.mark.parametrize("value", ["-1", "", "abc", "1.0", "1_0", "٣", "+5", "0x10", "9" * 5000])
def test_header_length_rejects_non_numbers(value):
    with pytest.raises(RequestError, match="expected a number of bytes"):
        parse_header_length(value)


@pytest.mark.parametrize("header_length", [-1, 15, 2**62])
def test_decode_rejects_header_length_beyond_body(header_length):
    match = f"Inference-Header-Content-Length is {header_length}, the body has 14 bytes"
    refuse(b'{"inputs": []}', match, header_length=header_length)


# ------------------------------------------------------------------ the request


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"inputs": None}, "inputs must be a list of tensors, 'x'; got nothing"),
        ({"inputs": []}, r"inputs must be a list of tensors, 'x'; got \[\]"),
        ({"inputs": {"x": [1]}}, "inputs must be a list of tensors, 'x'; got"),
        ({"inputs": [7]}, r"an input must be an object, got 7 \(integer\)"),
        ({"inputs": [GOOD, GOOD]}, "input 'x' occurs twice"),
        ({"id": 7}, r"id must be a string, got 7 \(integer\)"),
        ({"parameters": []}, r"parameters of the request must be an object, got \[\]"),
        ({"parameters": {"binary_data_output": 1}}, "binary_data_output of the request must be t"),
        ({"outputs": {"name": "y"}}, "outputs must be a list, got"),
        ({"outputs": ["y"]}, "an output must be an object, got 'y'"),
        ({"outputs": [{"name": "x"}]}, r"no output is named 'x' \(string\); expected 'y'"),
        ({"outputs": [{}]}, r"no output is named None \(null\); expected 'y'"),
        ({"outputs": [{"name": "y"}, {"name": "y"}]}, "output 'y' is requested twice"),
        (
            {"outputs": [{"name": "y", "parameters": {"binary_data": "yes"}}]},
            "binary_data of output 'y' must be true or false, got 'yes'",
        ),
        *(
            (
                {"outputs": [{"name": "y", "parameters": {"classification": count}}]},
                "classification of output 'y' must be an integer in 1..1000, got",
            )
            for count in (0, -1, 1001, True, 2.0, "3", [])
        ),
        (
            {"outputs": [{"name": "y", "parameters": {"shared_memory_region": "r"}}]},
            "output 'y': shared memory is not supported; request it as binary data",
        ),
    ],
)
def test_decode_rejects_wrong_request(changes, match):
    refuse(orjson.dumps({"inputs": [GOOD], **changes}), match)


def test_decode_names_missing_inputs():
    refuse_tensor(tensor(), "missing: 'ids'; the model takes 'x', 'ids'", specs=(X, IDS))


def test_decode_rejects_different_batch_sizes():
    ids = {"name": "ids", "datatype": "INT64", "shape": [2, 2], "data": [1, 2, 3, 4]}
    body = orjson.dumps({"inputs": [GOOD, ids]})
    refuse(body, r"same batch size, got \{'x': 1, 'ids': 2\}", specs=(X, IDS))


# ------------------------------------------------------------------ a tensor


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        (tensor(name="X"), r"no input is named 'X' \(string\); expected 'x'"),
        (tensor(name=MISSING), "no input is named None"),
        (tensor(name=["x"]), r"no input is named \['x'\]"),
        (tensor(datatype="FP64"), "got 'FP64' .string.; FP16, BF16 are converted exactly"),
        (tensor(datatype="fp32"), "datatype must be 'FP32', got 'fp32'"),
        (tensor(datatype="BYTES"), "datatype must be 'FP32', got 'BYTES' .*text model"),
        (tensor(datatype="BF16"), "input 'x': send BF16 as binary data, or FP32 as JSON"),
        (tensor(datatype=["FP16"]), r"datatype must be 'FP32', got \['FP16'\] \(array\)"),
        (tensor(datatype="INT8"), "datatype must be 'FP32', got 'INT8'"),
        (tensor(datatype=MISSING), "datatype must be 'FP32', got nothing"),
        (tensor(shape=MISSING), r"shape must be a list of integers like \[-1, 2\], got nothing"),
        (tensor(shape=2), "shape must be a list of integers"),
        (tensor(shape=[1, 2.0]), "shape must be a list of integers"),
        (tensor(shape=[True, 2]), "shape must be a list of integers"),
        (tensor(shape=[1, "2"]), "shape must be a list of integers"),
        (tensor(shape=[1, 3], data=[1, 2, 3]), r"shape must be \[-1, 2\].*got \[1, 3\]"),
        (tensor(shape=[2]), r"shape must be \[-1, 2\].*got \[2\]"),
        (tensor(shape=[1, 1, 2]), r"shape must be \[-1, 2\]"),
        (tensor(shape=[]), r"shape must be \[-1, 2\]"),
        (tensor(shape=[0, 2], data=[]), r"a batch of at least 1; got \[0, 2\]"),
        (tensor(shape=[-1, 2]), r"a batch of at least 1; got \[-1, 2\]"),
        (tensor(shape=[2**62, 2]), "data has 2 elements, its shape .* needs 9223372036854775808"),
        (tensor(data=MISSING), "needs either data or parameters.binary_data_size, got neither"),
        (tensor(data=None), "got neither"),
        (tensor(parameters={"binary_data_size": 8}), "got both"),
        (tensor(parameters=3), "parameters of input 'x' must be an object, got 3"),
        (tensor(data=7), r"data must be an array, got 7 \(integer\)"),
        (tensor(data="AAAA"), "data must be an array, got 'AAAA'"),
        (tensor(data={"0": 1}), "data must be an array"),
        (tensor(data=[1]), r"data has 1 elements, its shape \[1, 2\] needs 2"),
        (tensor(data=[1, 2, 3]), r"data has 3 elements, its shape \[1, 2\] needs 2"),
        (tensor(data=[]), "data has 0 entries in dimension 0"),
        (tensor(data=[[]]), r"data has 0 entries in dimension 1, its shape \[1, 2\] needs 2"),
        (tensor(data=[[1, 2], [3, 4]]), "data has 2 entries in dimension 0"),
        (tensor(data=[[1, 2, 3]]), "data has 3 entries in dimension 1"),
        (tensor(shape=[2, 2], data=[[1, 2], [3]]), "data has 1 entries in dimension 1"),
        (tensor(shape=[2, 2], data=[[1, 2], 3]), "data is ragged: 3 .*(dimension 1)"),
        (tensor(shape=[2, 2], data=[1, 2, 3, [4]]), r"element 3 of data .* is \[4\] \(array\)"),
        (tensor(data=[[1, [2]]]), r"element 1 of data .* is \[2\] \(array\)"),
        (tensor(data=[1, "2"]), r"element 1 .* is '2' \(string\), FP32 takes numbers"),
        (tensor(data=[True, 2]), r"element 0 .* is True \(boolean\), FP32 takes numbers"),
        (tensor(data=[1, None]), r"element 1 .* is None \(null\), FP32 takes numbers"),
        (tensor(data=[1, {}]), r"element 1 .* is \{\} \(object\), FP32 takes numbers"),
        (tensor(data=[1, 1e39]), r"element 1 .* is 1e\+39 .*numbers within ±3.4028235e\+38"),
    ],
)
def test_decode_rejects_wrong_tensor(fields, match):
    refuse_tensor(fields, match)


@pytest.mark.parametrize(
    ("datatype", "value", "match"),
    [
        (
            "INT64",
            1.0,
            "is 1.0 .*INT64 takes integers in -9223372036854775808..9223372036854775807",
        ),
        ("INT64", 2.5, r"is 2.5 \(number\), INT64 takes integers"),
        ("INT64", True, r"is True \(boolean\), INT64 takes integers"),
        ("INT64", 2**63, "is 9223372036854775808 .*INT64 takes integers in"),
        ("UINT64", -1, "is -1 .*UINT64 takes integers in 0..18446744073709551615"),
        ("UINT8", 256, "is 256 .*UINT8 takes integers in 0..255"),
        ("UINT8", -1, "is -1 .*UINT8 takes integers in 0..255"),
        ("INT8", 128, "is 128 .*INT8 takes integers in -128..127"),
        ("INT32", -(2**31) - 1, "is -2147483649 .*INT32 takes integers in"),
        ("UINT16", 65536, "is 65536 .*UINT16"),
        ("FP16", 65520, "is 65520 .*FP16 takes numbers within ±65504"),
        ("BOOL", 1, r"is 1 \(integer\), BOOL takes true or false"),
        ("BOOL", "true", r"is 'true' \(string\), BOOL takes true or false"),
    ],
)
def test_decode_neither_wraps_nor_rounds_values(datatype, value, match):
    spec = TensorSpec(name="x", datatype=datatype, shape=(-1, 2))
    first = datatype == "BOOL" or 0
    fields = tensor(datatype=datatype, data=[first, value])
    refuse_tensor(fields, f"element 1 of data .*{match}", specs=(spec,))


def test_decode_rejects_shape_beyond_64_bits():
    body = b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [18446744073709551616, 2]}]}'
    refuse(body, r"shape must be a list of integers like \[-1, 2\]")


def test_decode_rejects_integer_beyond_64_bits():
    # orjson reads integers beyond 64 bits as floats; these must not become integers again.
    spec = TensorSpec(name="x", datatype="UINT64", shape=(-1, 1))
    body = (
        b'{"inputs": [{"name": "x", "datatype": "UINT64", "shape": [1, 1], '
        b'"data": [18446744073709551616]}]}'
    )
    refuse(body, "UINT64 takes integers in 0..18446744073709551615", specs=(spec,))


# ------------------------------------------------------------------ binary data


@pytest.mark.parametrize(
    ("fields", "sent", "match"),
    [
        (binary(4), 8, r"binary_data_size must be 8, for FP32 \[1, 2\]; got 4"),
        (binary(12), 12, r"binary_data_size must be 8, for FP32 \[1, 2\]; got 12"),
        (binary(-8), 8, "binary_data_size must be 8, .* got -8"),
        (binary(8.0), 8, "binary_data_size must be 8, .* got 8.0"),
        (binary("8"), 8, "binary_data_size must be 8, .* got '8'"),
        (binary(True), 8, "binary_data_size must be 8, .* got True"),
        (binary(8), 7, "binary_data_size is 8, but 7 bytes are left"),
        (binary(8), 0, "binary_data_size is 8, but 0 bytes are left"),
        (binary(8), 9, "1 bytes are left over after the last binary input"),
        (binary(8, shape=[2**60, 2]), 8, "binary_data_size must be 9223372036854775808, for"),
        (binary(2**63, shape=[2**60, 2]), 8, "binary_data_size is 9223372036854775808, but 8 byt"),
        (tensor(), 5, "5 bytes are left over after the last binary input"),
    ],
)
def test_decode_rejects_wrong_binary_size(fields, sent, match):
    text = orjson.dumps({"inputs": [fields]})
    refuse(text + bytes(sent), match, header_length=len(text))


def test_decode_rejects_binary_data_without_header_length():
    refuse_tensor(binary(8), "0 bytes are left .*is Inference-Header-Content-Length sent")


def test_decode_rejects_bool_byte_above_one():
    spec = TensorSpec(name="x", datatype="BOOL", shape=(-1, 2))
    refuse(b"\x01\x02", "BOOL bytes must be 0 or 1, got 2", header_length=0, specs=(spec,))


@pytest.mark.parametrize("size", [0, 7, 12])
def test_raw_request_rejects_partial_items(size):
    match = rf"whole items of 8 bytes \(FP32 \[2\]\), got {size} bytes"
    refuse(bytes(size), match, header_length=0)


def test_raw_request_rejects_model_with_two_inputs():
    match = "needs a model with one input; this one has 'x', 'ids'"
    refuse(bytes(8), match, header_length=0, specs=(X, IDS))


def test_damaged_request_raises_request_error_only():
    rng = np.random.default_rng(3)
    text = orjson.dumps({"id": "a", "inputs": [binary(8)], "outputs": [{"name": "y"}]})
    good = text + np.array([1, 2], np.float32).tobytes()
    refused = 0
    for _ in range(2000):
        body = bytearray(good)
        for position in rng.integers(0, len(body), rng.integers(1, 4)):
            body[position] = rng.integers(0, 256)
        try:
            decode_infer(body, len(text) + int(rng.integers(-1, 2)), [X], [Y], LIMIT)
        except RequestError:
            refused += 1
    assert refused > 1000

"""Codec against NVIDIA's client, which writes the requests and reads the answers."""

import numpy as np
import pytest
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput

from cluster.errors import ProgramError, RequestError
from cluster.protocol.answer import encode_infer
from cluster.protocol.infer import (
    HEADER_LENGTH,
    InferRequest,
    RequestedOutput,
    decode_infer,
    parse_header_length,
)
from cluster.tensors import DATATYPES, TensorSpec

LIMIT = 2**20


def samples(datatype: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return random values over the whole range of a datatype, including its extremes."""
    dtype = DATATYPES[datatype]
    rng = np.random.default_rng(7)
    if dtype.kind == "b":
        return rng.integers(0, 2, shape).astype(bool)
    if dtype.kind == "f":
        array = rng.standard_normal(shape).astype(dtype)
        extremes = (np.finfo(dtype).min, np.finfo(dtype).max)
    else:
        limits = np.iinfo(dtype)
        array = rng.integers(limits.min, limits.max, shape, dtype, endpoint=True)
        extremes = (limits.min, limits.max)
    array.flat[0], array.flat[-1] = extremes
    return array


def client_input(spec: TensorSpec, array: np.ndarray, binary: bool) -> InferInput:
    tensor = InferInput(spec.name, list(array.shape), spec.datatype)
    return tensor.set_data_from_numpy(array, binary_data=binary)


def read_answer(answer):
    return InferenceServerClient.parse_response_body(
        answer.body, header_length=parse_header_length(answer.headers.get(HEADER_LENGTH))
    )


@pytest.mark.parametrize("item_shape", [(), (5,), (2, 3, 4)], ids=str)
@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
@pytest.mark.parametrize("datatype", DATATYPES)
def test_datatypes_survive_round_trip(datatype, binary, item_shape):
    spec = TensorSpec(name="x", datatype=datatype, shape=(-1, *item_shape))
    array = samples(datatype, (3, *item_shape))
    body, header_length = InferenceServerClient.generate_request_body(
        [client_input(spec, array, binary)],
        outputs=[InferRequestedOutput("x", binary_data=binary)],
        request_id="r-1",
    )

    request = decode_infer(body, header_length, [spec], [spec], LIMIT)
    answer = encode_infer("echo", "1", request, request.arrays, [spec])
    result = read_answer(answer)

    assert request.batch == 3
    np.testing.assert_array_equal(request.arrays[0], array, strict=True)
    np.testing.assert_array_equal(result.as_numpy("x"), array, strict=True)
    described = result.get_response()
    assert (described["model_name"], described["model_version"]) == ("echo", "1")
    assert described["id"] == "r-1"
    expected_type = "application/octet-stream" if binary else "application/json"
    assert answer.headers["Content-Type"] == expected_type
    assert (HEADER_LENGTH in answer.headers) == binary


IDS = TensorSpec(name="input_ids", datatype="INT64", shape=(-1, 8))
MASK = TensorSpec(name="attention_mask", datatype="UINT8", shape=(-1, 8))
LOGITS = TensorSpec(name="logits", datatype="FP32", shape=(-1, 2))
EMBEDDING = TensorSpec(name="embedding", datatype="FP16", shape=(-1, 3, 2))


def two_input_body(**request):
    """Return a body with the odd-sized mask first, so that order and offsets matter."""
    ids, mask = samples("INT64", (3, 8)), samples("UINT8", (3, 8))
    body, header_length = InferenceServerClient.generate_request_body(
        [client_input(MASK, mask, True), client_input(IDS, ids, True)], **request
    )
    return body, header_length, ids, mask


def test_decoded_inputs_follow_order_of_specs():
    body, header_length, ids, mask = two_input_body()
    request = decode_infer(body, header_length, [IDS, MASK], [LOGITS, EMBEDDING], LIMIT)
    np.testing.assert_array_equal(request.arrays[0], ids, strict=True)
    np.testing.assert_array_equal(request.arrays[1], mask, strict=True)


def test_decode_reads_json_and_binary_inputs_together():
    ids, mask = samples("INT64", (1, 8)), samples("UINT8", (1, 8))
    body, header_length = InferenceServerClient.generate_request_body(
        [client_input(IDS, ids, False), client_input(MASK, mask, True)]
    )
    request = decode_infer(body, header_length, [IDS, MASK], [LOGITS], LIMIT)
    np.testing.assert_array_equal(request.arrays[0], ids, strict=True)
    np.testing.assert_array_equal(request.arrays[1], mask, strict=True)


def test_client_without_outputs_gets_all_as_binary():
    # In this case NVIDIA's client sends binary_data_output: true.
    body, header_length, _, _ = two_input_body()
    request = decode_infer(body, header_length, [IDS, MASK], [LOGITS, EMBEDDING], LIMIT)
    arrays = [samples("FP32", (3, 2)), samples("FP16", (3, 3, 2))]
    result = read_answer(encode_infer("m", "2", request, arrays, [LOGITS, EMBEDDING]))
    for name, array in zip(("logits", "embedding"), arrays, strict=True):
        np.testing.assert_array_equal(result.as_numpy(name), array, strict=True)
        assert result.get_output(name)["parameters"] == {"binary_data_size": array.nbytes}
    assert "id" not in result.get_response()


def test_answer_encodes_each_output_as_requested():
    body, header_length, _, _ = two_input_body(
        outputs=[
            InferRequestedOutput("embedding", binary_data=True),
            InferRequestedOutput("logits", binary_data=False),
        ]
    )
    request = decode_infer(body, header_length, [IDS, MASK], [LOGITS, EMBEDDING], LIMIT)
    arrays = [samples("FP32", (3, 2)), samples("FP16", (3, 3, 2))]
    result = read_answer(encode_infer("m", "1", request, arrays, [LOGITS, EMBEDDING]))
    assert [output["name"] for output in result.get_response()["outputs"]] == [
        "embedding",
        "logits",
    ]
    assert "data" in result.get_output("logits")
    np.testing.assert_array_equal(result.as_numpy("logits"), arrays[0], strict=True)
    np.testing.assert_array_equal(result.as_numpy("embedding"), arrays[1], strict=True)


def test_answer_omits_outputs_not_requested():
    body, header_length, _, _ = two_input_body(outputs=[InferRequestedOutput("logits")])
    request = decode_infer(body, header_length, [IDS, MASK], [LOGITS, EMBEDDING], LIMIT)
    arrays = [samples("FP32", (3, 2)), samples("FP16", (3, 3, 2))]
    result = read_answer(encode_infer("m", "1", request, arrays, [LOGITS, EMBEDDING]))
    assert result.as_numpy("embedding") is None
    np.testing.assert_array_equal(result.as_numpy("logits"), arrays[0], strict=True)


def test_answer_encodes_fortran_order_as_row_major():
    array = np.asfortranarray(samples("FP16", (3, 3, 2)))
    for binary in (True, False):
        request = InferRequest(None, (array,), (RequestedOutput("embedding", binary),))
        result = read_answer(encode_infer("m", "1", request, [array], [EMBEDDING]))
        np.testing.assert_array_equal(result.as_numpy("embedding"), array, strict=True)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_answer_rejects_nan_and_infinity_in_json_only(value):
    array = np.array([[1, value]], np.float32)
    as_binary = InferRequest(None, (array,), (RequestedOutput("logits", binary=True),))
    result = read_answer(encode_infer("m", "1", as_binary, [array], [LOGITS]))
    np.testing.assert_array_equal(result.as_numpy("logits"), array)
    as_json = InferRequest(None, (array,), (RequestedOutput("logits", binary=False),))
    with pytest.raises(RequestError, match=r"'logits' holds NaN or infinity.*binary_data_output"):
        encode_infer("m", "1", as_json, [array], [LOGITS])


@pytest.mark.parametrize(
    "array",
    [np.zeros((1, 2), np.float64), np.zeros((1, 3), np.float32), np.zeros((2, 2), np.float32)],
    ids=["dtype", "shape", "batch"],
)
def test_answer_rejects_output_that_breaks_its_spec(array):
    request = InferRequest(None, (np.zeros((1, 2)),), (RequestedOutput("logits", binary=True),))
    with pytest.raises(ProgramError, match=r"its spec says float32 \[1, 2\]"):
        encode_infer("m", "1", request, [array], [LOGITS])

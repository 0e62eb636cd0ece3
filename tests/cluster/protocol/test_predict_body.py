"""Prediction requests: the JSON body, and the returned labels."""

import base64

import numpy as np
import orjson
import pytest

from cluster.errors import PayloadTooLargeError, ProgramError, RequestError
from cluster.protocol.predict import (
    DEFAULT_TOP_K,
    decode_predict,
    item_array,
    prediction,
    top_k,
)
from cluster.tensors import TensorSpec

PNG = b"\x89PNG\r\n\x1a\n not really"
IMAGE = base64.b64encode(PNG).decode()


def decode(message, limit=2**20):
    return decode_predict(orjson.dumps(message), limit)


def test_decode_reads_image():
    request = decode({"image": IMAGE})
    assert (request.image, request.text, request.inputs) == (PNG, None, None)
    assert request.top_k == DEFAULT_TOP_K


def test_decode_reads_text():
    request = decode({"text": "a fine film ☂", "top_k": 2, "image": None})
    assert (request.image, request.text, request.inputs) == (None, "a fine film ☂", None)
    assert request.top_k == 2


@pytest.mark.parametrize("inputs", [[[1, 2, 3], [4, 5, 6]], [1, 2, 3, 4, 5, 6]])
def test_item_accepts_nested_and_flat_inputs(inputs):
    spec = TensorSpec(name="x", datatype="INT32", shape=(-1, 2, 3))
    array = item_array(decode({"inputs": inputs}).inputs, spec)
    expected = np.array([[[1, 2, 3], [4, 5, 6]]], np.int32)
    np.testing.assert_array_equal(array, expected, strict=True)


def test_item_accepts_number_without_dimensions():
    spec = TensorSpec(name="x", datatype="FP32", shape=(-1,))
    array = item_array(decode({"inputs": 2.5}).inputs, spec)
    np.testing.assert_array_equal(array, np.array([2.5], np.float32), strict=True)


@pytest.mark.parametrize("inputs", [[[[1, 2, 3], [4, 5, 6]]], [1, 2], [[1, 2, 3], [4, 5, "6"]], 7])
def test_item_rejects_mismatched_inputs(inputs):
    spec = TensorSpec(name="x", datatype="INT32", shape=(-1, 2, 3))
    with pytest.raises(RequestError, match="input 'x'"):
        item_array(decode({"inputs": inputs}).inputs, spec)


@pytest.mark.parametrize(
    ("message", "match"),
    [
        ({}, "expected one of image, text, inputs; got none of them"),
        ({"text": "a", "image": IMAGE}, "got image and text"),
        (
            {"text": "a", "topk": 3},
            r"unknown field: 'topk' .*known fields: image, text, inputs, top_k",
        ),
        ({"text": 7}, r"text must be a string, got 7 \(integer\)"),
        ({"image": 7}, "image must be a base64 string, got 7"),
        ({"image": ""}, "image is empty"),
        ({"image": "a"}, "image is not base64"),
        ({"image": IMAGE[:-1]}, "image is not base64"),
        ({"image": "data:image/png;base64," + IMAGE}, "without line breaks or a data: prefix"),
        ({"image": IMAGE[:8] + "\n" + IMAGE[8:]}, "image is not base64"),
        ({"image": "é" + IMAGE}, "image is not base64"),
        ({"text": "a", "top_k": 0}, r"top_k must be an integer in 1..1000, got 0"),
        ({"text": "a", "top_k": 1001}, "got 1001"),
        ({"text": "a", "top_k": 2.0}, "got 2.0"),
        ({"text": "a", "top_k": True}, "got True"),
        ({"text": "a", "top_k": None}, "got None"),
        ([], "expected a JSON object"),
    ],
)
def test_decode_rejects_wrong_body(message, match):
    with pytest.raises(RequestError, match=match):
        decode(message)


def test_decode_rejects_body_over_limit():
    with pytest.raises(PayloadTooLargeError, match="limit is 20"):
        decode({"text": "more than twenty bytes"}, limit=20)


def test_top_k_is_softmax_in_descending_order():
    logits = np.log(np.array([1, 5, 3, 1], np.float32))
    answer = top_k(logits, ["a", "b", "c", "d"], 3)
    assert [entry["label"] for entry in answer] == ["b", "c", "a"]  # tie: a before d
    probabilities = [entry["probability"] for entry in answer]
    np.testing.assert_allclose(probabilities, [0.5, 0.3, 0.1], rtol=1e-6)
    assert orjson.loads(orjson.dumps(answer)) == answer


def test_top_k_beyond_labels_returns_all():
    logits = np.array([0.5, -2, 3], np.float16)
    answer = top_k(logits, ["a", "b", "c"], 5)
    assert len(answer) == 3
    assert sum(entry["probability"] for entry in answer) == pytest.approx(1, abs=1e-12)


def test_top_k_survives_huge_logits():
    assert top_k(np.array([3e38, -3e38, -np.inf], np.float32), ["a", "b", "c"], 2) == [
        {"label": "a", "probability": 1.0},
        {"label": "b", "probability": 0.0},
    ]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_top_k_rejects_nan_and_infinity(value):
    with pytest.raises(ProgramError, match="not usable"):
        top_k(np.array([1, value], np.float32), ["a", "b"], 1)


def test_top_k_rejects_logits_of_wrong_length():
    with pytest.raises(ProgramError, match=r"logits are \[3\], expected \[2\]"):
        top_k(np.zeros(3, np.float32), ["a", "b"], 1)


def test_top_k_of_sigmoid_has_independent_probabilities():
    logits = np.array([-1, 3, 2.5], np.float32)
    answer = top_k(logits, ["a", "b", "c"], 2, "sigmoid")
    assert [entry["label"] for entry in answer] == ["b", "c"]
    probabilities = [entry["probability"] for entry in answer]
    # 1 / (1 + e^-3), 1 / (1 + e^-2.5)
    np.testing.assert_allclose(probabilities, [0.9525741268, 0.9241418200], rtol=1e-9)


def test_prediction_names_the_numbers_of_a_regression():
    output = np.array([3.25, -1], np.float32)
    answer = prediction(output, ("price", "area"), "none", "values", 1)
    assert answer == {"values": {"price": 3.25, "area": -1.0}}
    assert prediction(output, (), "none", "values", 1) == {"values": [3.25, -1.0]}


@pytest.mark.parametrize("labels", [(), ("price", "area")])
def test_prediction_rejects_numbers_that_are_not_finite(labels):
    with pytest.raises(ProgramError, match="values has numbers that are not finite"):
        prediction(np.array([1, np.nan], np.float32), labels, "none", "values", 1)

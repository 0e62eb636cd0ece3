"""Triton's classification extension, read by NVIDIA's client."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput

from cluster.errors import RequestError
from cluster.protocol.answer import encode_infer
from cluster.protocol.binary_tensor import HEADER_LENGTH
from cluster.protocol.classification import highest
from cluster.protocol.infer import decode_infer
from cluster.tensors import TensorSpec

FRUIT = ("banana", "pickle", "apple", "pear")
X = TensorSpec(name="x", datatype="FP32", shape=(-1, 1))


def classes(
    array: np.ndarray, count: int, labels: tuple[str, ...] = (), *, binary: bool = True
) -> list[list[str]]:
    """Return the classes of an output, as the client reads them."""
    x = InferInput("x", [len(array), 1], "FP32")
    x.set_data_from_numpy(np.zeros((len(array), 1), np.float32))
    body, length = InferenceServerClient.generate_request_body(
        [x], outputs=[InferRequestedOutput("y", binary_data=binary, class_count=count)]
    )
    datatype = {"f": "FP32", "i": "INT32"}[array.dtype.kind]
    y = TensorSpec(name="y", datatype=datatype, shape=(-1, *array.shape[1:]))
    request = decode_infer(body, length, [X], [y], 2**20)
    encoded = encode_infer("m", "1", request, [array], [y], labels=labels)
    result = InferenceServerClient.parse_response_body(
        encoded.body, header_length=encoded.headers.get(HEADER_LENGTH)
    )
    assert result.get_output("y")["datatype"] == "BYTES"
    texts = result.as_numpy("y").tolist()
    return [[t.decode() if isinstance(t, bytes) else t for t in row] for row in texts]


@pytest.mark.parametrize("binary", [True, False])
def test_example_of_tritons_documentation(binary: bool) -> None:
    array = np.array([[1, 5, 10, 4]], np.int32)
    assert classes(array, 2, binary=binary) == [["10:2", "5:1"]]
    assert classes(array, 2, FRUIT, binary=binary) == [["10:2:apple", "5:1:pickle"]]
    logits = np.array([[1.1, 3.3, 0.5, 2.4]], np.float32)
    assert classes(logits, 2, binary=binary) == [["3.3:1", "2.4:3"]]


def test_every_item_has_its_classes() -> None:
    array = np.array([[1, 2, 3, 4], [4, 3, 2, 1]], np.float32)
    assert classes(array, 1, FRUIT) == [["4.0:3:pear"], ["4.0:0:banana"]]
    assert [len(row) for row in classes(array, 9, FRUIT)] == [4, 4]


def test_dense_output_is_indexed_in_row_major_order() -> None:
    array = np.zeros((1, 2, 3), np.float32)
    array[0, 1, 2] = 7
    assert classes(array, 1, FRUIT) == [["7.0:5"]]  # four labels do not name six elements


def test_of_equal_values_the_lower_index_comes_first() -> None:
    assert classes(np.zeros((1, 4), np.float32), 3) == [["0.0:0", "0.0:1", "0.0:2"]]


def test_infinity_has_its_place_and_nan_has_none() -> None:
    array = np.array([[0, -np.inf, np.inf, 1]], np.float32)
    assert classes(array, 4) == [["inf:2", "1.0:3", "0.0:0", "-inf:1"]]
    array[0, 0] = np.nan
    with pytest.raises(RequestError, match="output 'y' holds NaN, so it has no highest values"):
        classes(array, 1)


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=30), st.integers(1, 40))
def test_classes_equal_a_full_sort(values: list[float], count: int) -> None:
    array = np.array([values], np.float32)
    (row,) = highest(array, count, (), "y")
    expected = sorted(range(len(values)), key=lambda i: (-array[0, i], i))[:count]
    assert [int(text.split(":")[1]) for text in row] == expected
    assert [np.float32(text.split(":")[0]) for text in row] == [array[0, i] for i in expected]

"""Metadata bodies: fields of the protocol."""

from cluster.protocol.metadata import error_body, model_config, model_metadata, server_metadata
from cluster.tensors import TensorSpec


def test_server_metadata_has_protocol_fields():
    assert server_metadata("headrace", "0.1") == {
        "name": "headrace",
        "version": "0.1",
        "extensions": [
            "binary_tensor_data",
            "classification",
            "model_configuration",
            "model_repository",
            "statistics",
        ],
    }


def test_model_metadata_has_protocol_fields():
    x = TensorSpec(name="x", datatype="FP32", shape=(-1, 3, 8, 8))
    y = TensorSpec(name="y", datatype="INT64", shape=(-1,))
    assert model_metadata("m", ["1"], "headrace_aoti", [x], [y]) == {
        "name": "m",
        "versions": ["1"],
        "platform": "headrace_aoti",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 3, 8, 8]}],
        "outputs": [{"name": "y", "datatype": "INT64", "shape": [-1]}],
    }


def test_model_config_describes_one_item():
    x = TensorSpec(name="x", datatype="FP32", shape=(-1, 3, 8, 8))
    y = TensorSpec(name="y", datatype="INT64", shape=(-1,))
    assert model_config("m", "headrace_aoti", 4, [x], [y]) == {
        "name": "m",
        "platform": "headrace_aoti",
        "max_batch_size": 4,
        "input": [{"name": "x", "data_type": "TYPE_FP32", "dims": [3, 8, 8]}],
        "output": [{"name": "y", "data_type": "TYPE_INT64", "dims": []}],
    }


def test_error_body_has_message():
    assert error_body("no model 'a'") == {"error": "no model 'a'"}

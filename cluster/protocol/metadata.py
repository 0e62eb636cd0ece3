"""Metadata of server and models, and the body of an error: plain dicts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cluster.activation import OutputActivation
from cluster.tensors import TensorSpec

EXTENSIONS = ("binary_tensor_data", "classification", "model_configuration")
"""Supported protocol extensions."""

CURRENT_VERSION = "1"
"""Version number of the model that is served now, whatever its artifact.

Triton numbers versions from 1, and its clients ask for a number."""


def server_metadata(name: str, version: str) -> dict[str, Any]:
    """Return the body of ``GET /v2``."""
    return {"name": name, "version": version, "extensions": list(EXTENSIONS)}


def model_metadata(
    name: str,
    versions: Sequence[str],
    platform: str,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    artifact: str | None = None,
    activation: OutputActivation | None = None,
) -> dict[str, Any]:
    """Return the body of ``GET /v2/models/NAME``; -1 in a shape is the batch.

    Beyond the protocol, of a model: ``artifact``, ``NAME@ID``; ``activation``, which turns the
    output into probabilities.
    """
    beyond = {"artifact": artifact, "activation": activation}
    return {
        **{field: value for field, value in beyond.items() if value is not None},
        "name": name,
        "versions": list(versions),
        "platform": platform,
        "inputs": [_tensor_metadata(spec) for spec in inputs],
        "outputs": [_tensor_metadata(spec) for spec in outputs],
    }


def model_config(
    name: str,
    platform: str,
    max_batch_size: int,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
) -> dict[str, Any]:
    """Return the body of ``GET /v2/models/NAME/config``: the part of Triton's that clients read.

    Dimensions are those of one item. ``perf_analyzer`` requests this before anything else.
    """
    return {
        "name": name,
        "platform": platform,
        "max_batch_size": max_batch_size,
        "input": [_tensor_config(spec) for spec in inputs],
        "output": [_tensor_config(spec) for spec in outputs],
    }


def error_body(message: str) -> dict[str, str]:
    """Return the body of an error answer."""
    return {"error": message}


def _tensor_metadata(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}


def _tensor_config(spec: TensorSpec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "data_type": f"TYPE_{spec.datatype}",
        "dims": list(spec.item_shape),
    }

"""Metadata of server and models, and the body of an error: plain dicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cluster.activation import OutputActivation
from cluster.protocol.fields import flag
from cluster.protocol.json_body import read_object
from cluster.tensors import TensorSpec

EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "statistics",
)
"""Supported protocol extensions. Of ``model_repository`` the index alone: models are loaded by the
Serve config, as by Triton's ``--model-control-mode=none``."""

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


def requires_ready(body: bytes) -> bool:
    """Whether a request for the index is for ready models only; RequestError if it is invalid."""
    return bool(flag(read_object(body, len(body)), "ready", "the request"))


def repository_index(models: Mapping[str, tuple[str, str]]) -> list[dict[str, str]]:
    """Return the body of ``POST /v2/repository/index``.

    ``models``: name → state (``READY``, ``LOADING``, ``UNLOADING``, ``UNAVAILABLE``) and its
    reason, empty for a ready model.
    """
    return [
        {"name": name, "version": CURRENT_VERSION, "state": state, "reason": reason}
        for name, (state, reason) in models.items()
    ]


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

"""What the server and a model say about themselves, and how an error reads: plain dicts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cluster.tensors import TensorSpec

EXTENSIONS = ("binary_tensor_data",)
"""The protocol extensions spoken here."""


def server_metadata(name: str, version: str) -> dict[str, Any]:
    """Body of ``GET /v2``."""
    return {"name": name, "version": version, "extensions": list(EXTENSIONS)}


def model_metadata(
    name: str,
    versions: Sequence[str],
    platform: str,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
) -> dict[str, Any]:
    """Body of ``GET /v2/models/NAME``; -1 in a shape is the batch."""
    return {
        "name": name,
        "versions": list(versions),
        "platform": platform,
        "inputs": [_tensor_metadata(spec) for spec in inputs],
        "outputs": [_tensor_metadata(spec) for spec in outputs],
    }


def error_body(message: str) -> dict[str, str]:
    """Body of every answer that is an error."""
    return {"error": message}


def _tensor_metadata(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}

"""OpenAPI descriptions of bodies that are parsed without FastAPI, for speed and limits."""

from __future__ import annotations

from typing import Any

ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {
        "description": "The request was rejected; the error has the reason and the expectation.",
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["error"],
                    "properties": {"error": {"type": "string"}},
                }
            }
        },
    }
}
"""Error responses of every path."""

_TENSOR: dict[str, Any] = {
    "type": "object",
    "required": ["name", "shape", "datatype"],
    "properties": {
        "name": {"type": "string"},
        "shape": {"type": "array", "items": {"type": "integer"}},
        "datatype": {"type": "string", "example": "FP32"},
        "data": {"type": "array", "items": {}},
        "parameters": {"type": "object", "properties": {"binary_data_size": {"type": "integer"}}},
    },
}

INFER: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "Open Inference Protocol v2. With Inference-Header-Content-Length, binary "
        "tensors follow a JSON header of that length.",
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["inputs"],
                    "properties": {
                        "id": {"type": "string"},
                        "inputs": {"type": "array", "items": _TENSOR},
                        "outputs": {"type": "array", "items": {"type": "object"}},
                        "parameters": {"type": "object"},
                    },
                }
            },
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    },
}
"""Body of POST /infer."""

PREDICT: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "image/*": {"schema": {"type": "string", "format": "binary"}},
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "image": {"type": "string", "format": "byte"},
                        "text": {"type": "string"},
                        "inputs": {"type": "array", "items": {}},
                        "top_k": {"type": "integer", "minimum": 1},
                    },
                }
            },
        },
    },
}
"""Body of POST /predict."""

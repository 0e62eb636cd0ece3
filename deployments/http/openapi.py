"""OpenAPI descriptions of bodies that are parsed without FastAPI, for speed and limits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cluster.activation import OutputActivation

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

_PREDICT: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "image/*": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "image": {"type": "string", "format": "binary"},
                        "text": {"type": "string"},
                        "top_k": {"type": "integer", "minimum": 1},
                    },
                }
            },
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

INDEX: dict[str, Any] = {
    "requestBody": {
        "required": False,
        "content": {
            "application/json": {
                "schema": {"type": "object", "properties": {"ready": {"type": "boolean"}}}
            }
        },
    },
}
"""Body of POST /repository/index."""


def predict(activation: OutputActivation, labels: Sequence[str], output: str) -> dict[str, Any]:
    """Return body and answer of POST /predict, by the meaning of the model's ``output``."""
    number = {"type": "number"}
    if activation == "none" or not labels:
        values: dict[str, Any] = {"type": "array", "items": number}
        if labels:
            named = dict.fromkeys(labels, number)
            values = {"type": "object", "properties": named, "required": list(labels)}
        name, description, schema = output, "The model's numbers", values
    else:
        name = "predictions"
        description = {
            "softmax": "The likeliest labels, one of which applies: probabilities of all sum to 1",
            "sigmoid": "The likeliest labels, each of which applies or not by its own probability",
        }[activation]
        entry = {
            "type": "object",
            "properties": {"label": {"type": "string"}, "probability": number},
            "required": ["label", "probability"],
        }
        schema = {"type": "array", "items": entry}
    answer = {
        "type": "object",
        "properties": {"model_name": {"type": "string"}, name: schema},
        "required": ["model_name", name],
    }
    content = {"application/json": {"schema": answer}}
    return {**_PREDICT, "responses": {"200": {"description": description, "content": content}}}

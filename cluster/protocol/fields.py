"""Checked fields of the JSON part: parameters, flags, and the spec that a tensor names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from cluster.errors import RequestError
from cluster.protocol.json_body import excerpt
from cluster.tensors import TensorSpec


def parameters_of(holder: dict[str, Any], owner: str) -> dict[str, Any]:
    """Return the parameters of ``owner``; RequestError unless they are an object."""
    parameters = holder.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise RequestError(f"parameters of {owner} must be an object, {actual(parameters)}")
    return parameters


def flag(parameters: dict[str, Any], name: str, owner: str) -> bool | None:
    """Return a parameter that is true or false; None if absent. RequestError for another value."""
    value = parameters.get(name)
    if value is not None and not isinstance(value, bool):
        raise RequestError(f"{name} of {owner} must be true or false, {actual(value)}")
    return value


def spec_of(tensor: Any, by_name: Mapping[str, TensorSpec], role: str) -> TensorSpec:
    """Return the spec that a tensor of the request names; RequestError without one."""
    if not isinstance(tensor, dict):
        raise RequestError(f"an {role} must be an object, got {excerpt(tensor)}")
    name = tensor.get("name")
    spec = by_name.get(name) if isinstance(name, str) else None
    if spec is None:
        raise RequestError(
            f"no {role} is named {excerpt(name)}; expected {names(by_name.values())}"
        )
    return spec


def names(specs: Iterable[TensorSpec]) -> str:
    """Return the names of tensors, for an error message."""
    return ", ".join(repr(spec.name) for spec in specs)


def actual(value: Any) -> str:
    """Return a value as the end of an error message."""
    return "got nothing" if value is None else f"got {excerpt(value)}"

"""Outputs that a request asks for: as JSON, as binary data, or as their highest classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cluster.errors import RequestError
from cluster.protocol.classification import MAX_CLASSES
from cluster.protocol.fields import actual, flag, parameters_of, spec_of
from cluster.tensors import TensorSpec


@dataclass(frozen=True, slots=True)
class RequestedOutput:
    """A requested output, as binary data or as JSON ``data``."""

    name: str
    binary: bool
    classes: int | None = None
    """Number of its highest values, returned with their labels; None: the output itself."""


def read_outputs(
    entries: Any, binary_default: bool, specs: Sequence[TensorSpec]
) -> tuple[RequestedOutput, ...]:
    """Return the outputs of the request's field ``outputs``; all of ``specs`` if it is empty.

    ``binary_default``: form of outputs that do not state theirs. RequestError for an unknown
    output, a duplicate, and parameters that cannot be met.
    """
    if entries is None or entries == []:
        return tuple(RequestedOutput(spec.name, binary_default) for spec in specs)
    if not isinstance(entries, list):
        raise RequestError(f"outputs must be a list, {actual(entries)}")
    by_name = {spec.name: spec for spec in specs}
    requested: dict[str, RequestedOutput] = {}
    for output in entries:
        name = spec_of(output, by_name, "output").name
        if name in requested:
            raise RequestError(f"output {name!r} is requested twice")
        owner = f"output {name!r}"
        parameters = parameters_of(output, owner)
        binary = flag(parameters, "binary_data", owner)
        if "shared_memory_region" in parameters:
            raise RequestError(
                f"{owner}: shared memory is not supported; request it as binary data, or as JSON"
            )
        requested[name] = RequestedOutput(
            name, binary_default if binary is None else binary, _classes(parameters, owner)
        )
    return tuple(requested.values())


def _classes(parameters: dict[str, Any], owner: str) -> int | None:
    classes = parameters.get("classification")
    if classes is not None and (type(classes) is not int or not 1 <= classes <= MAX_CLASSES):
        raise RequestError(
            f"classification of {owner} must be an integer in 1..{MAX_CLASSES}, {actual(classes)}"
        )
    return classes

"""Results of the checks of computed indices that a program returns after its outputs.

outputs of the program → outputs of the model, if every check is 0
                       → RequestError with the operator, its inputs, the index and its range
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from cluster.artifact.entries import IndexCheck
from cluster.errors import RequestError

_REFUSED = re.compile(
    r"(?<!Dimension )out of (range|bounds)|invalid max index|Class values must|"
    r"must be non-negative|takes value -?\d+ which is not|ZeroDivisionError|"
    r"only supports .* non-negative"
)
"""Messages of PyTorch's operators about the values of their integers."""


def outputs_of(arrays: list[np.ndarray], checks: Sequence[IndexCheck]) -> list[np.ndarray]:
    """Return the outputs of the model; RequestError for an index out of range."""
    if not checks:
        return arrays
    outputs = arrays[: -len(checks)]
    for check, results in zip(checks, arrays[-len(checks) :], strict=True):
        bad = results[results != 0]
        if bad.size:
            raise RequestError(_sentence(check, int(bad[0])))
    return outputs


def refusal_of(error: Exception) -> RequestError | None:
    """Return the refusal of a request if an operator refused its integers, else None."""
    reason = str(error).partition("\n")[0]  # libtorch appends its stack
    if _REFUSED.search(reason):
        return RequestError(f"the model refuses this input: {reason:.200}")
    return None


def _sentence(check: IndexCheck, result: int) -> str:
    inputs = " and ".join(check.inputs) or "the inputs"
    if check.divides:
        return f"{check.operator} divides by 0, computed from {inputs}; send other values"
    index = result - 1 if result > 0 else result  # see indexing/checked.py
    sentence = f"{check.operator} gets index {index}, computed from {inputs}"
    if check.bounds is None:
        return f"{sentence}; it is out of range"
    low, high = check.bounds
    return f"{sentence}; this model accepts {low} to {high}"

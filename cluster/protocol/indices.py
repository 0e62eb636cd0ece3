"""Inputs that are looked up in a table: refused at the door where they lie outside.

Compiled code ends its whole process on such an index, with every other request in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from cluster.errors import RequestError
from cluster.tensors import TensorSpec


def check_indices(
    arrays: Sequence[np.ndarray], inputs: Sequence[TensorSpec], limits: Mapping[str, int]
) -> None:
    """RequestError for a value that is not in 0 to the input's limit less one.

    ``limits``: input → rows of the table it is looked up in; other inputs are not looked at.
    """
    for array, spec in zip(arrays, inputs, strict=True):
        limit = limits.get(spec.name)
        if limit is None or array.size == 0:
            continue
        low, high = int(array.min()), int(array.max())
        if low < 0 or high >= limit:
            raise RequestError(
                f"input {spec.name} holds {low if low < 0 else high}, this model knows 0 to "
                f"{limit - 1}"
            )

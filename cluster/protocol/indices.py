"""Range check of inputs that index a table.

Compiled code ends its whole process on an index out of range, with every other request in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from cluster.errors import RequestError
from cluster.tensors import TensorSpec


def check_indices(
    arrays: Sequence[np.ndarray], inputs: Sequence[TensorSpec], limits: Mapping[str, int]
) -> None:
    """Raise RequestError for a value outside 0 to the input's limit less one.

    ``limits``: input → rows of the table that it indexes; other inputs are not checked.
    """
    for array, spec in zip(arrays, inputs, strict=True):
        limit = limits.get(spec.name)
        if limit is None or array.size == 0:
            continue
        low, high = int(array.min()), int(array.max())
        if low < 0 or high >= limit:
            raise RequestError(
                f"input {spec.name} holds {low if low < 0 else high}, this model accepts 0 to "
                f"{limit - 1}"
            )

"""Triton's classification extension: an output as its highest values, with index and label.

    logits [batch, classes], 2 ──► ["10.0:2:apple", "5.0:1:pickle"] per item, BYTES [batch, 2]

https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_classification.md
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cluster.errors import RequestError

MAX_CLASSES = 1000
"""Classes that a request may ask for."""


def highest(array: np.ndarray, count: int, labels: Sequence[str], name: str) -> list[list[str]]:
    """Return ``VALUE:INDEX`` or ``VALUE:INDEX:LABEL`` of the highest values of each item.

    ``array`` is ``[batch, ...]``; an index counts an item's elements in row-major order. There are
    ``count`` strings per item, or as many as it has elements, in descending order; of equal values
    the lower index comes first. Labels count only if there is one for each element. RequestError
    if ``array`` holds NaN, which has no place in an order.
    """
    items = array.reshape(len(array), -1)
    if items.dtype.kind == "f" and np.isnan(items).any():
        raise RequestError(
            f"output {name!r} holds NaN, so it has no highest values; request the output itself"
        )
    elements = items.shape[1]
    count = min(count, elements)
    suffixes = [f":{label}" for label in labels] if len(labels) == elements else [""] * elements
    rows = []
    for item in items:
        # Of the smallest of the highest values, those with the lowest index.
        threshold = np.partition(item, elements - count)[elements - count]
        above, equal = np.flatnonzero(item > threshold), np.flatnonzero(item == threshold)
        indices = [*above.tolist(), *equal[: count - len(above)].tolist()]
        indices.sort(key=lambda index: (-item[index].item(), index))
        # str() of a numpy number has the fewest digits that read back as the same number.
        rows.append([f"{item[index]!s}:{index}{suffixes[index]}" for index in indices])
    return rows

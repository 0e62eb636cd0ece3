"""One batch in parts, over the replicas of a model."""

from __future__ import annotations


def parts(items: int, most: int) -> list[slice]:
    """As few parts of at most ``most`` items as there can be, as equal as they can be, in order.

    Replicas that run side by side are done together when none has more to do than the others.
    """
    count = -(-items // most)
    size, larger = divmod(items, count)
    found, start = [], 0
    for index in range(count):
        end = start + size + (index < larger)
        found.append(slice(start, end))
        start = end
    return found

"""Split of one batch over the replicas of a model."""

from __future__ import annotations


def parts(items: int, most: int) -> list[slice]:
    """Split ``items`` into the fewest slices of at most ``most`` items, in order.

    Sizes differ by at most one, so that replicas finish together.
    """
    count = -(-items // most)
    size, larger = divmod(items, count)
    slices, start = [], 0
    for index in range(count):
        end = start + size + (index < larger)
        slices.append(slice(start, end))
        start = end
    return slices

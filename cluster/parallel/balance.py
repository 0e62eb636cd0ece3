"""Balanced cuts: minimal load of the slowest stage.

costs between cuts, costs of crossing them → dynamic programming → one cut per stage border

The partition problem of Narayanan et al., PipeDream (SOSP 2019), section 3.1, for stages of one
device each. The slowest stage bounds the throughput, so its time is minimized; among equals, the
transferred volume.
"""

from __future__ import annotations

from collections.abc import Sequence

from cluster.errors import PlanError


def balance(work: Sequence[float], crossing: Sequence[float], stages: int) -> tuple[int, ...]:
    """Return the ascending indices of the cuts that split ``work`` into ``stages`` parts.

    ``work[i]``: time between cut ``i - 1`` and cut ``i``, one more entry than cuts.
    ``crossing[i]``: time that cut ``i`` costs the stages before and after it.
    PlanError if there are fewer cuts than stages need.
    """
    count = len(crossing)
    if len(work) != count + 1:
        raise ValueError(f"{len(work)} parts need {len(work) - 1} cuts between them, got {count}")
    if stages - 1 > count:
        raise PlanError(
            f"pipeline={stages} needs {stages - 1} cuts, the model has {count} places to cut; "
            f"use at most {count + 1} stages"
        )
    elapsed = [0.0]
    for part in work:
        elapsed.append(elapsed[-1] + part)

    def cost(first: int, last: int) -> float:
        """Return the time of a stage after cut ``first - 1`` up to cut ``last``."""
        border = (crossing[first - 1] if first > 0 else 0.0) + (
            crossing[last] if last < count else 0.0
        )
        return elapsed[last + 1] - elapsed[first] + border

    # best[last]: (slowest stage, transferred volume, cuts) of the parts up to cut `last`.
    best = {last: (cost(0, last), 0.0, ()) for last in range(count + 1)}
    for _ in range(stages - 1):
        after: dict[int, tuple[float, float, tuple[int, ...]]] = {}
        for last in range(count + 1):
            options = (
                (
                    max(best[cut][0], cost(cut + 1, last)),
                    best[cut][1] + crossing[cut],
                    (*best[cut][2], cut),
                )
                for cut in range(last)
                if cut in best
            )
            if (option := min(options, default=None)) is not None:
                after[last] = option
        best = after  # type: ignore[assignment]
    return best[count][2]

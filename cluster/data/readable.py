"""Check, before a job computes anything, that the files of its samples can be read."""

from __future__ import annotations

from collections.abc import Sequence

from cluster.data.prepared import PreparedSamples
from cluster.errors import SourceError
from cluster.progress import Bar, Print

SHOWN = 5
"""Number of unreadable files that a message names."""

_AT_ONCE = 512


def require_readable(sets: Sequence[PreparedSamples], limit: float, out: Print) -> dict[str, str]:
    """Decode all image files; return the names of unreadable ones, with reasons.

    They are left out of training and scores. SourceError if their share of all samples is over
    ``limit``, the recipe's ``data.max_unreadable``.
    """
    total = sum(map(len, sets))
    bar, done, reasons = Bar("data     decoded", total, out), 0, dict[str, str]()
    for samples in sets:
        for start in range(0, len(samples), _AT_ONCE):
            end = min(start + _AT_ONCE, len(samples))
            reasons |= samples.unreadable(range(start, end))
            done += end - start
            if done < total:
                bar.update(done)
    if not reasons:
        return {}
    listed = "; ".join(f"{name}: {reason}" for name, reason in [*reasons.items()][:SHOWN])
    more = f"; and {len(reasons) - SHOWN} more" if len(reasons) > SHOWN else ""
    count = f"{len(reasons)} of {total} samples"
    # A share such as 0.07 of 100 is not exactly 7 in binary.
    if len(reasons) > limit * total + 1e-6:
        raise SourceError(
            f"{count} cannot be read, a share of {len(reasons) / total:.2g}; data.max_unreadable "
            f"allows {limit:g}, so nothing was built. Repair or remove these files, or raise it: "
            f"{listed}{more}"
        )
    out(f"data     {count} cannot be read and are left out: {listed}{more}")
    return reasons

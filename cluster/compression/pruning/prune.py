"""The ``prune`` step: one table entry per method.

Prune ─→ METHODS ─┬─ sparsity.magnitude        the smallest weights become zero
                  ├─ sparsity.semi_structured  two of every four weights become zero
                  └─ structured.structured     channels and heads go: smaller tensors
"""

from __future__ import annotations

from collections.abc import Callable

from cluster.compression.pruning.sparsity import magnitude, semi_structured
from cluster.compression.pruning.structured import structured
from cluster.compression.work import Job, Work
from cluster.config.steps import Prune

METHODS: dict[str, Callable[[Work, Prune, Job], Work]] = {
    "magnitude": magnitude,
    "semi_structured": semi_structured,
    "structured": structured,
}


def prune(work: Work, step: Prune, job: Job) -> Work:
    """Prune a copy of the model; the given one stays as it is, also if this fails.

    Into ``job.details``: ``sensitivity`` (layer → score drop when it alone is pruned, as much
    as the step asks of all), ``pruned`` (layer → [channels before, after]) or ``sparsity`` (layer
    → share of zeros). Raises CompressionError for a pattern that matches no layer, for a
    model in which nothing can be pruned, and for one whose channels cannot be followed.
    """
    return METHODS[step.method](work, step, job)

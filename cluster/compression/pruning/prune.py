"""The ``prune`` step: one table entry per method.

Prune ─→ METHODS ─┬─ sparsity.magnitude        the smallest weights become zero
                  ├─ sparsity.semi_structured  two of every four weights become zero
                  └─ structured.structured     channels and heads are removed: smaller tensors
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
    """Prune a copy of the model; ``work`` is never changed.

    ``job.details`` gets ``sensitivity`` (layer → score drop when it alone is pruned by the step's
    amount), and ``pruned`` (layer → [channels before, after]) or ``sparsity`` (layer → share of
    zeros). CompressionError if a pattern matches no layer, the model has nothing to prune, or its
    channels cannot be traced.
    """
    return METHODS[step.method](work, step, job)

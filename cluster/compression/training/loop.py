"""Fitting a module: the one entrance for every step that trains.

train, distill, recovery after pruning, quantization-aware training
    → fit ─┬─ processes: 1 → descent.descend, here
           └─ processes: N → parallel.descend_together, in processes of the cluster
"""

from __future__ import annotations

import torch

from cluster.compression.training.descent import Training, check, descend
from cluster.compression.training.objective import Objective
from cluster.compression.training.parallel import descend_together
from cluster.compression.work import StepContext
from cluster.config.steps import Fit


def fit(
    module: torch.nn.Module, step: Fit, objective: Objective, context: StepContext, title: str
) -> None:
    """Train ``module`` in place on ``context.train``; it ends in eval mode, on the CPU.

    ``title`` begins the lines of progress. Appends each epoch's mean loss to
    ``context.details["losses"]``. Checkpoints lie in ``context.checkpoints`` under a key of the
    settings and the starting weights, so one step may fit several times.

    A graph of torch.export must take ``train()`` and ``eval()`` (torchao's
    ``allow_exported_model_train_eval``).

    CompressionError as :func:`cluster.compression.training.descent.descend` raises it, and for
    settings that do not fit the samples.
    """
    training = Training(
        step=step,
        objective=objective,
        samples=context.train,
        seed=context.seed,
        title=f"{title:<8}",
        checkpoints=context.checkpoints,
        out=context.out,
    )
    check(training)
    if step.processes == 1:
        losses = descend(module, training)
    else:
        losses = descend_together(module, training, context)
    context.details.setdefault("losses", []).extend(losses)

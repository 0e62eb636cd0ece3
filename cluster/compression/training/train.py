"""Training of a module: ``fit`` for every step that trains, and the ``train`` step itself.

train, distill, recovery after pruning, quantization-aware training
    → fit ─┬─ processes: 1 → descent.descend, here
           └─ processes: N → parallel.descend_together, in processes of the cluster
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from cluster.compression.training.descent import Training, check, descend
from cluster.compression.training.objective import LabelObjective, Objective
from cluster.compression.training.parallel import descend_together
from cluster.compression.work import Job, Work
from cluster.config.steps import Fit, Recovery, Train
from cluster.tensors import TensorSpec


def train(work: Work, step: Train, job: Job) -> Work:
    """Train the module in place on the training samples and return it in eval mode."""
    fit(work.module, step, LabelObjective(step.loss, job.model.activation), job, "train")
    return Work.of(work.module, work.inputs)


def recover(
    module: torch.nn.Module, recovery: Recovery, job: Job, inputs: Sequence[TensorSpec]
) -> None:
    """Fine-tune in place a module that another step changed; it ends in eval mode."""
    fit(module, recovery, LabelObjective(recovery.loss, job.model.activation), job, "recover")


def fit(module: torch.nn.Module, step: Fit, objective: Objective, job: Job, title: str) -> None:
    """Train ``module`` in place on ``job.train``; it ends in eval mode, on the CPU.

    ``title``: prefix of the progress lines. Each epoch's mean loss is appended to
    ``job.details["losses"]``. Checkpoints are in ``job.checkpoints`` under a key of the settings
    and the initial weights, so one step may fit several times.

    A graph of torch.export must support ``train()`` and ``eval()`` (torchao's
    ``allow_exported_model_train_eval``).

    CompressionError as from :func:`cluster.compression.training.descent.descend`, and if the
    settings do not fit the samples.
    """
    training = Training(
        step=step,
        objective=objective,
        samples=job.train,
        seed=job.seed,
        title=f"{title:<8}",
        checkpoints=job.checkpoints,
        out=job.out,
    )
    check(training)
    if step.processes == 1:
        losses = descend(module, training)
    else:
        losses = descend_together(module, training, job)
    job.details.setdefault("losses", []).extend(losses)

"""The ``train`` step: gradient descent on a classifier, with a cosine learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch.nn import functional

from cluster.compression.work import StepContext, Work
from cluster.config.recipe import Train
from cluster.program.node import cpus
from cluster.progress import Bar


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """``-log softmax(logits)[label]``, the mean over the batch (Goodfellow et al., ch. 6.2.2)."""
    return functional.cross_entropy(logits, labels)


def mean_squared_error(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """``mean((softmax(logits) - one_hot(label))²)``: Brier's score (1950) over the classes."""
    wanted = functional.one_hot(labels, logits.shape[1]).to(logits.dtype)
    return functional.mse_loss(logits.softmax(dim=1), wanted)


LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "cross_entropy": cross_entropy,
    "mse": mean_squared_error,
}


def _sgd(module: torch.nn.Module, step: Train) -> torch.optim.Optimizer:
    return torch.optim.SGD(
        module.parameters(),
        lr=step.learning_rate,
        momentum=0.9,
        nesterov=True,
        weight_decay=step.weight_decay,
    )


def _adamw(module: torch.nn.Module, step: Train) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        module.parameters(), lr=step.learning_rate, weight_decay=step.weight_decay
    )


OPTIMIZERS: dict[str, Callable[[torch.nn.Module, Train], torch.optim.Optimizer]] = {
    "sgd": _sgd,
    "adamw": _adamw,
}


def cosine(update: int, total: int, warmup: int) -> float:
    """Factor of the peak learning rate at ``update``: linear warm-up, then half a cosine to 0.

    Loshchilov and Hutter 2017, "SGDR", eq. 5 with one period.
    """
    if update < warmup:
        return (update + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (update - warmup) / max(total - warmup, 1)))


def train(work: Work, step: Train, context: StepContext) -> Work:
    """Train the module in place on the training samples and return it in eval mode."""
    torch.set_num_threads(cpus())
    torch.manual_seed(context.seed)
    order = np.random.default_rng(context.seed)
    # oneDNN's convolutions read and write channels last; so nothing is reordered in between.
    module = work.module.to(memory_format=torch.channels_last).train()
    optimizer = OPTIMIZERS[step.optimizer](module, step)
    updates = math.ceil(len(context.train) / step.batch_size)
    total = updates * step.epochs
    warmup = round(total * step.warmup_share)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda u: cosine(u, total, warmup))
    loss_of = LOSSES[step.loss]
    bar = Bar("train   ", total, context.out)
    done = 0
    for epoch in range(step.epochs):
        shuffled = order.permutation(len(context.train))
        for start in range(0, len(shuffled), step.batch_size):
            chosen = shuffled[start : start + step.batch_size]
            done += 1
            # Batch normalization cannot train on the single sample that may be left over.
            if len(chosen) > 1 or start == 0 or step.batch_size == 1:
                arrays, labels = context.train.batch(chosen)
                logits = module(*(torch.from_numpy(array) for array in arrays))
                loss = loss_of(logits, torch.from_numpy(labels))
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                note = f"epoch {epoch + 1}/{step.epochs} loss {loss.item():.4f}"
            schedule.step()
            bar.update(done, note)
    return Work(module.eval(), work.inputs, work.weights)

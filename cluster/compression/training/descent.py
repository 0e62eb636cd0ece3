"""Gradient descent in one process, alone or as one of several that share each batch.

    samples ─ shuffle, share → batch ─ augment → objective → backward → optimizer, each update
    end of an epoch → everything finite? → last good weights, checkpoint

A non-finite loss ends the training with the last good weights in the module.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from cluster.compression.training import augment, checkpoint
from cluster.compression.training.checkpoint import Checkpoint
from cluster.compression.training.objective import Objective
from cluster.compression.training.optimizers import OPTIMIZERS, learning_rate
from cluster.compression.training.peers import ALONE, Peers
from cluster.config.steps import Fit
from cluster.data import PreparedSamples
from cluster.errors import CompressionError, ForwardError, HeadraceError
from cluster.models import faults
from cluster.program.node import cpus
from cluster.progress import Bar, Print


@dataclass(frozen=True)
class Training:
    """Settings of a training: everything that decides it besides the module's weights."""

    step: Fit
    objective: Objective
    samples: PreparedSamples
    seed: int
    title: str
    """Prefix of its progress lines and errors."""

    checkpoints: Path
    out: Print
    peers: Peers = ALONE


class _Together(torch.nn.Module):
    """Model and auxiliary modules as one module, for the optimizer and DDP."""

    def __init__(self, module: torch.nn.Module, training: Training) -> None:
        super().__init__()
        self.module = module
        self.auxiliary = training.objective.auxiliary
        self._loss = training.objective.__call__
        self._mixed = training.step.precision == "bf16"

    def forward(self, inputs: Sequence[torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
        try:
            with torch.autocast(labels.device.type, torch.bfloat16, enabled=self._mixed):
                return self._loss(self.module, inputs, labels)
        except HeadraceError:
            raise
        # A model's code can raise anything. Its layer is named here, because an error reaches the
        # job from another process without its traceback.
        except Exception as error:
            raise ForwardError(faults.sentence(error)) from error


def check(training: Training) -> None:
    """Raise CompressionError if the settings do not fit the samples."""
    step, samples = training.step, len(training.samples)
    if step.batch_size < step.processes:
        raise CompressionError(
            f"batch_size={step.batch_size} cannot be shared by processes={step.processes}; raise "
            "batch_size or lower processes, so that each gets a sample of every batch"
        )
    if samples < step.processes:
        raise CompressionError(
            f"{samples} training samples cannot be shared by processes={step.processes}; lower "
            "processes or provide more data"
        )
    augment.check(training.samples.batch([0])[0], step.augmentation)


def descend(module: torch.nn.Module, training: Training) -> tuple[float, ...]:
    """Train ``module`` in place and return each epoch's mean loss; the module ends in eval mode.

    The training resumes from a killed process's checkpoint of the same settings and initial
    weights, with that process's number of threads. On a CPU the result is then bit for bit that of
    an uninterrupted training.

    CompressionError if the loss or a weight is no longer finite, or if a checkpoint cannot be
    written. The module then has the weights of the last good epoch, or its initial ones.
    """
    torch.set_num_threads(cpus())
    device = torch.device("cuda" if training.peers.on_gpus and gpu_of(module) else "cpu")
    together = _Together(module, training).to(device)
    together.to(memory_format=layout_of(module))
    try:
        return _epochs(together, training, device)
    finally:
        together.to("cpu").to(memory_format=torch.contiguous_format)
        module.eval()


def layout_of(module: torch.nn.Module) -> torch.memory_format:
    """Return the memory format to train in.

    Channels last: convolutions of oneDNN and cuDNN read and write it without reordering. Weights of
    three-dimensional convolutions have no such format.
    """
    if any(parameter.dim() == 5 for parameter in module.parameters()):
        return torch.contiguous_format
    return torch.channels_last


def gpu_of(module: torch.nn.Module) -> str:
    """Return the unique id of the GPU on which this process would train ``module``.

    "" without a GPU, or for a traced graph, which stays on the CPU where it was traced.
    """
    if not torch.cuda.is_available() or isinstance(module, torch.fx.GraphModule):
        return ""
    return str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid)


def fill_with_last_good(module: torch.nn.Module, training: Training) -> None:
    """Load the weights of the training's last checkpoint, if it exists, into ``module``."""
    together = _Together(module, training)
    resumed = checkpoint.read(training.checkpoints, _key(together, training))
    if resumed is not None:
        _fill(together, resumed.module)


def _epochs(together: _Together, training: Training, device: torch.device) -> tuple[float, ...]:
    step, peers = training.step, training.peers
    key = _key(together, training)
    parameters = [p for p in together.parameters() if p.requires_grad]
    optimizer = OPTIMIZERS[step.optimizer](parameters, step)
    plan = _Plan.of(step, len(training.samples), peers.world)
    good = _state(together)
    finished, losses = 0, list[float]()
    resumed = peers.agree(checkpoint.read(training.checkpoints, key) if peers.first else None)
    if resumed is not None:
        _fill(together, resumed.module)
        checkpoint.fill_optimizer(optimizer, parameters, resumed.optimizer)
        finished, losses, good = resumed.epochs, list(resumed.losses), resumed.module
        torch.set_num_threads(resumed.threads)
        training.out(f"{training.title} resumes after epoch {finished} of {plan.epochs}")
    bar = Bar(training.title, plan.updates, training.out)
    shared = peers.wrap(together)
    try:
        for epoch in range(finished, plan.epochs):
            losses.append(_epoch(shared, optimizer, training, plan, epoch, bar, device))
            good = _finite_state(together, training, plan, epoch)
            if peers.first:
                saved = Checkpoint(
                    epochs=epoch + 1,
                    losses=tuple(losses),
                    module=good,
                    optimizer=checkpoint.optimizer_tensors(optimizer),
                    threads=torch.get_num_threads(),
                )
                checkpoint.write(training.checkpoints, key, saved)
    except _NotFiniteError as error:
        _fill(together, good)
        raise CompressionError(str(error)) from None
    return tuple(losses)


@dataclass(frozen=True)
class _Plan:
    """Batches of an epoch, as slices of its order, and the number of updates."""

    batches: tuple[slice, ...]
    """Batches of one epoch."""

    epochs: int
    updates: int

    @staticmethod
    def of(step: Fit, samples: int, world: int) -> _Plan:
        # Batch normalization cannot train on a single sample, which could be a process's share of
        # the last batch of an epoch.
        fewest = min(2 * world, step.batch_size)
        starts = range(0, samples, step.batch_size)
        batches = tuple(
            slice(start, min(start + step.batch_size, samples))
            for start in starts
            if start == 0 or samples - start >= fewest
        )
        updates = len(batches) * step.epochs
        updates = min(updates, step.updates or updates)
        return _Plan(batches, math.ceil(updates / len(batches)), updates)


def _epoch(
    shared: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    training: Training,
    plan: _Plan,
    epoch: int,
    bar: Bar,
    device: torch.device,
) -> float:
    """Run one pass over the samples; return the mean loss of its updates."""
    step, peers = training.step, training.peers
    shared.train()
    # Each epoch has its own random stream, so a resumed one draws the same numbers. Dropout differs
    # between processes; the order of the samples does not.
    order = np.random.default_rng([training.seed, epoch])
    torch.manual_seed(
        int(np.random.default_rng([training.seed, epoch, peers.rank]).integers(2**63))
    )
    shuffled = order.permutation(len(training.samples))
    total = count = 0.0
    for position, batch in enumerate(plan.batches):
        update = epoch * len(plan.batches) + position
        if update == plan.updates:
            break
        chosen = shuffled[batch]
        draws = order.random((len(chosen), len(step.augmentation), augment.DRAWS))
        arrays, labels = training.samples.batch(peers.share(chosen))
        arrays = augment.augment(arrays, step.augmentation, peers.share(draws))
        inputs = [torch.from_numpy(array).to(device) for array in arrays]
        loss = shared(inputs, torch.from_numpy(labels).to(device))
        # The processes' means are averaged; those of larger parts must count for more.
        loss = loss * (len(labels) * peers.world / len(chosen))
        rate = learning_rate(step, update, plan.updates)
        seen = peers.mean(loss)
        if not math.isfinite(seen):
            raise _NotFiniteError(_diverged(training, plan, epoch, update, f"loss became {seen}"))
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        total, count = total + seen, count + 1
        bar.update(update + 1, f"epoch {epoch + 1}/{plan.epochs} loss {seen:.4f}")
    return total / count


def _finite_state(
    together: _Together, training: Training, plan: _Plan, epoch: int
) -> dict[str, torch.Tensor]:
    """Return the state to store, after a check: the last update's weights have had no loss yet."""
    state = _state(together)
    for name, tensor in state.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            update = min((epoch + 1) * len(plan.batches), plan.updates) - 1
            problem = f"tensor {name.partition('.')[2]} is no longer finite"
            raise _NotFiniteError(_diverged(training, plan, epoch, update, problem))
    return state


class _NotFiniteError(Exception):
    """End of the epochs; becomes a CompressionError after the last good weights are restored."""


def _diverged(training: Training, plan: _Plan, epoch: int, update: int, problem: str) -> str:
    restored = f"those of the end of epoch {epoch}" if epoch else "those from before the training"
    return (
        f"{training.title.strip()}: the {problem} in epoch {epoch + 1} of {plan.epochs}, at "
        f"update {update + 1} of {plan.updates}, where the learning rate was "
        f"{learning_rate(training.step, update, plan.updates):.3g}; the weights are {restored}. "
        f"Lower learning_rate (now {training.step.learning_rate:g}), raise warmup_share (now "
        f"{training.step.warmup_share:g}), or look for non-finite values in the data"
    )


def _key(together: _Together, training: Training) -> str:
    """Return the key of the training's settings and initial weights."""
    settings = json.dumps(
        [
            training.step.model_dump(mode="json"),
            training.seed,
            len(training.samples),
            type(training.objective).__name__,
            torch.__version__,
        ]
    )
    return checkpoint.key_of(settings, together.state_dict())


def _fill(together: _Together, tensors: dict[str, torch.Tensor]) -> None:
    # The module's own mapping has version marks that some modules require (MNASNet).
    state = together.state_dict()
    state.update(tensors)
    together.load_state_dict(state)


def _state(together: _Together) -> dict[str, torch.Tensor]:
    return {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in together.state_dict().items()
    }

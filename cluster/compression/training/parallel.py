"""Data-parallel training: N processes of the cluster, each with its share of every batch.

    descend_together ─ gang ─┬→ train_rank 0 ─ descend ─┐ DDP: gradients averaged by all-reduce
          ↑                  ├→ train_rank 1 ─ descend ─┤ (nccl if each has its own GPU,
          │                  └→ ...                     ┘  else all compute on CPUs: gloo)
          └── rank 0: weights, losses; lines of progress through the store of the rendezvous

Each process reads the recipe's data and holds out the same samples. A batch is split over the
processes, so its size, the number of updates and the result are those of one process. Differences
come only from the order of float additions and from batch normalization, whose statistics each
process computes on its own share. A process that dies ends the others; all restart from the last
epoch's checkpoint.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import distributed
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

from cluster.artifact.artifact import TOKENIZER
from cluster.compression.training.descent import (
    Training,
    descend,
    fill_with_last_good,
    gpu_of,
)
from cluster.compression.training.objective import Objective
from cluster.compression.training.peers import Peers
from cluster.compression.work import Job, tensors_of
from cluster.config.recipe import Recipe
from cluster.config.steps import Fit
from cluster.data import PreparedSamples, load_data
from cluster.errors import CompressionError, LostProcessError
from cluster.models import load_model
from cluster.progress import Print

RETRIES = 3
"""Maximum number of restarts of a training after processes died."""

_POLL_S = 0.2
_LINES, _LINE = "lines", "line/"


@dataclass(frozen=True)
class RankTask:
    """Task of one process of a training."""

    recipe: Recipe
    module: torch.nn.Module
    step: Fit
    objective: Objective
    title: str
    checkpoints: Path
    samples: int
    """Number of the job's training samples; this process must read as many."""

    peers: Peers
    host: str
    port: int


@dataclass(frozen=True)
class TrainingResult:
    """Result of the first process."""

    tensors: dict[str, torch.Tensor]
    losses: tuple[float, ...]


def descend_together(module: torch.nn.Module, training: Training, job: Job) -> tuple[float, ...]:
    """Train ``module`` in place in ``training.step.processes`` processes; return the losses.

    CompressionError as from :func:`~cluster.compression.training.descent.descend`, and if the
    cluster has no room. LostProcessError if processes still die after :data:`RETRIES` retries. The
    module then has the weights of the last checkpoint that this process can read.
    """
    retries = 0
    try:
        while True:
            try:
                trained = _gang(module, training, job)
                break
            except LostProcessError as error:
                retries += 1
                if retries > RETRIES:
                    raise
                training.out(
                    f"{training.title} lost a process ({error}); all resume from the last epoch's "
                    f"checkpoint, retry {retries} of {RETRIES}"
                )
    except CompressionError:
        fill_with_last_good(module, training)
        raise
    state = module.state_dict()
    state.update(trained.tensors)
    module.load_state_dict(state)
    module.eval()
    return trained.losses


def _gang(module: torch.nn.Module, training: Training, job: Job) -> TrainingResult:
    world = training.step.processes
    with _rendezvous(job.launcher.address, training.out) as port:
        first = RankTask(
            recipe=job.recipe,
            module=module,
            step=training.step,
            objective=training.objective,
            title=training.title,
            checkpoints=training.checkpoints,
            samples=len(training.samples),
            peers=Peers(0, world),
            host=job.launcher.address,
            port=port,
        )
        tasks = [replace(first, peers=Peers(rank, world)) for rank in range(world)]
        trained, *_ = job.launcher.gang(train_rank, tasks)
    if trained is None:
        raise CompressionError("the first of the training processes returned no weights")
    return trained


def train_rank(task: RankTask) -> TrainingResult | None:
    """Take part in a training, in an own process; the first process returns the weights."""
    if task.host.startswith("127."):
        # All processes are on one machine, so their traffic stays on the loopback interface.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    store = TCPStore(task.host, task.port, is_master=False)

    def report(line: str) -> None:
        if task.peers.first:
            store.set(f"{_LINE}{store.add(_LINES, 1)}", line)

    gpus = _exchange(gpu_of(task.module), PrefixStore("gpus", store), task.peers)
    backend = backend_for(gpus)
    if backend == "gloo" and (available := len({gpu for gpu in gpus if gpu})):
        report(
            f"{task.title} computes on CPUs: processes={task.peers.world} need a GPU each, and "
            f"found {available}; set processes to {available} to train on GPUs"
        )
    samples = _samples(task)
    distributed.init_process_group(
        backend=backend,
        store=PrefixStore("ranks", store),
        rank=task.peers.rank,
        world_size=task.peers.world,
    )
    training = Training(
        step=task.step,
        objective=task.objective,
        samples=samples,
        seed=task.recipe.seed,
        title=task.title,
        checkpoints=task.checkpoints,
        out=report,
        peers=task.peers,
    )
    try:
        losses = descend(task.module, training)
    finally:
        distributed.destroy_process_group()
    return TrainingResult(tensors_of(task.module), losses) if task.peers.first else None


def backend_for(gpus: Sequence[str]) -> Literal["nccl", "gloo"]:
    """Return the backend for processes on these GPUs: one id per process, "" for none.

    It is nccl only for distinct GPUs, because nccl refuses two processes on one device.
    """
    return "nccl" if all(gpus) and len(set(gpus)) == len(gpus) else "gloo"


def _exchange(value: str, store: PrefixStore, peers: Peers) -> list[str]:
    """Wait for the value of every process; return them in the order of ranks."""
    store.set(str(peers.rank), value)
    return [store.get(str(rank)).decode() for rank in range(peers.world)]


def _samples(task: RankTask) -> PreparedSamples:
    """Read the job's training samples in this process."""
    recipe = task.recipe
    data = load_data(recipe.data, recipe.seed)
    if len(data.train) != task.samples:
        raise CompressionError(
            f"process {task.peers.rank} reads {len(data.train)} training samples from "
            f"{recipe.data.source}, the job has {task.samples}; give every node the same data"
        )
    model = load_model(recipe.model, data.labels, checked=True)
    return PreparedSamples(
        data.train,
        model.inputs,
        model.preprocess,
        model.files.get(TOKENIZER),
        skip_unreadable=True,
    )


@contextmanager
def _rendezvous(host: str, out: Print) -> Iterator[int]:
    """Run a store at ``host`` where the processes connect to each other; yield its port.

    It listens at that address alone. Lines that the first process writes to it go to ``out``.
    """
    server = socket.create_server((host, 0))
    port = server.getsockname()[1]
    store = TCPStore(
        host, port, is_master=True, wait_for_workers=False, master_listen_fd=server.detach()
    )
    ended = threading.Event()

    def forward() -> None:
        count = 0
        last = False
        while not last:
            last = ended.wait(_POLL_S)
            while store.check([f"{_LINE}{count + 1}"]):
                count += 1
                out(store.get(f"{_LINE}{count}").decode())

    forwarder = threading.Thread(target=forward, name="training-progress")
    forwarder.start()
    try:
        yield port
    finally:
        ended.set()
        forwarder.join()

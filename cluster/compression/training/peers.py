"""Processes that train one model together, from the view of one of them.

samples of a batch ─ share → this process's part
gradients ─ wrap (DistributedDataParallel) → averaged over all processes
loss ─ mean → the same number in all processes, so that all stop at once
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from cluster.compression.training.checkpoint import Checkpoint


@dataclass(frozen=True)
class Peers:
    """Process ``rank`` (from 0) of ``world`` processes. The first one writes and reports.

    If ``world`` exceeds 1, torch.distributed must be initialised.
    """

    rank: int = 0
    world: int = 1

    @property
    def on_gpus(self) -> bool:
        """Whether each process may use its GPU: a single one, and those connected by nccl."""
        return self.world == 1 or distributed.get_backend() == "nccl"

    @property
    def first(self) -> bool:
        return self.rank == 0

    def share(self, values: np.ndarray) -> np.ndarray:
        """Return this process's rows of ``values``."""
        return values[self.rank :: self.world]

    def wrap(self, module: torch.nn.Module) -> torch.nn.Module:
        """Return the module with gradients averaged over all processes and buffers of the first."""
        if self.world == 1:
            return module
        # A model may have parameters without effect on its output, such as BERT's pooler if the
        # embedding is a mean of the tokens.
        return DistributedDataParallel(module, find_unused_parameters=True)

    def mean(self, value: torch.Tensor) -> float:
        """Return the mean of a scalar over all processes; NaN if it is NaN in one."""
        if self.world == 1:
            return value.item()
        total = value.detach().clone()
        distributed.all_reduce(total)
        return total.item() / self.world

    def agree(self, checkpoint: Checkpoint | None) -> Checkpoint | None:
        """Return the first process's checkpoint in all processes: their file systems may differ."""
        if self.world == 1:
            return checkpoint
        shared = [checkpoint]
        distributed.broadcast_object_list(shared, src=0)
        return shared[0]


ALONE = Peers()

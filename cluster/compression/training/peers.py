"""The processes that train one model together, as each of them sees the others.

chosen samples ─ share → this process's part
gradients ─ wrap (DistributedDataParallel) → averaged over all
loss ─ mean → the same number everywhere, so that all stop at once
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
    """Number ``rank`` (from 0) of ``world`` processes. The first one writes and reports.

    With a world of more than one, torch.distributed must be initialised.
    """

    rank: int = 0
    world: int = 1

    @property
    def on_gpus(self) -> bool:
        """Whether each may compute on its GPU: one that is alone, and those joined by nccl."""
        return self.world == 1 or distributed.get_backend() == "nccl"

    @property
    def first(self) -> bool:
        return self.rank == 0

    def share(self, values: np.ndarray) -> np.ndarray:
        """This process's rows of what all share."""
        return values[self.rank :: self.world]

    def wrap(self, module: torch.nn.Module) -> torch.nn.Module:
        """The module with its gradients averaged over all processes, its buffers the first's."""
        if self.world == 1:
            return module
        # A model may hold parameters that its answer does not depend on, such as BERT's pooler
        # where the embedding is a mean of the tokens.
        return DistributedDataParallel(module, find_unused_parameters=True)

    def mean(self, value: torch.Tensor) -> float:
        """The mean of a scalar over all processes: not a number if it is none in one."""
        if self.world == 1:
            return value.item()
        total = value.detach().clone()
        distributed.all_reduce(total)
        return total.item() / self.world

    def agree(self, checkpoint: Checkpoint | None) -> Checkpoint | None:
        """What the first process found, in all of them: their file systems may differ."""
        if self.world == 1:
            return checkpoint
        found = [checkpoint]
        distributed.broadcast_object_list(found, src=0)
        return found[0]


ALONE = Peers()
